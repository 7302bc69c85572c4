"""The drawing of the whole model on the start page, in headless Chromium."""

import pytest
from browser import app_server
from tiny import gpt2_config, gpt2_tensors, tiny_model, write_folder

pytestmark = pytest.mark.browser
DEEP = 24

# The texts that stick out of their box, and the boxes that lie on each other.
FAULTS = """drawing => {
    const rect = node => node.getBoundingClientRect()
    const cut = [...drawing.querySelectorAll('.box, .box > *, .pick, .inside')].filter(node => {
        const [inner, outer] = [rect(node), rect(node.parentElement.closest('.box, .inside, .drawing'))]
        return node.scrollWidth > node.clientWidth + 1 && node.clientWidth || inner.left < outer.left - 1
            || (inner.right > outer.right + 1 && !node.closest('.unfolded'))
    })
    const texts = [...drawing.querySelectorAll('.title, .chip, .shape, .length, .parameters, .explanation, .pick')]
        .filter(node => node.checkVisibility())
    const overlapping = texts.filter((one, index) => texts.slice(index + 1).some(other => {
        const [a, b] = [rect(one), rect(other)]
        return a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3
    }))
    return [...cut, ...overlapping].map(node => node.textContent)
}"""


@pytest.fixture(scope="module")
def deep_address(browser, tmp_path_factory):
    """The app with a model of 24 blocks."""
    folder = tmp_path_factory.mktemp("deep")
    path = write_folder(folder / "deep", gpt2_tensors(tiny_model(n_layers=DEEP)), gpt2_config(n_layer=DEEP))
    with app_server(folder, GPTVIZ_MODELS=str(path)) as address:
        yield address


def drawing(tab):
    return tab.page.locator(".drawing")


def block(tab, number):
    return tab.page.get_by_role("button", name=f"Transformer block {number} ")


def close_sidebar(tab):
    tab.page.get_by_test_id("stSidebarCollapseButton").locator("button").dispatch_event("click")  # shown on hover
    tab.page.get_by_test_id("stExpandSidebarButton").wait_for()
    tab.page.wait_for_function("innerWidth - document.querySelector('[data-testid=stMain]').clientWidth < 40")
    tab.settle()


def bottom(tab):
    box = drawing(tab).bounding_box()
    return box["y"] + box["height"]


def test_the_drawing_unfolds_a_block_and_opens_its_parts(tab):
    tab.open()
    block = tab.page.get_by_role("button", name="Transformer block 3")
    assert block.get_attribute("aria-expanded") == "false"
    block.focus()
    tab.page.keyboard.press("Enter")
    tab.wait_for_query(unfolded="3")
    tab.settle()
    assert tab.page.get_by_role("button", name="Transformer block 3").get_attribute("aria-expanded") == "true"
    tab.page.get_by_role("button", name="Masked multi-head attention").click()
    tab.page.get_by_role("heading", name="Attention", exact=True).wait_for()
    tab.wait_for_query(unfolded="3", layer="3")
    tab.check()


@pytest.mark.parametrize(
    ("part", "heading"),
    [
        ("Token embedding", "Embeddings"),
        ("Output head", "Next token"),
        ("Final LayerNorm", "Residual stream"),
        ("LayerNorm 1", "Transformer block"),
        ("Your text", "Tokens"),
    ],
)
def test_each_part_of_the_drawing_leads_to_its_page(tab, part, heading):
    tab.open()
    tab.page.get_by_role("button", name=part).first.click()
    tab.page.get_by_role("heading", name=heading, exact=True).wait_for()
    tab.settle()
    tab.check()


def test_the_drawing_shows_a_texts_markup_as_text(tab):
    tab.open(text="<b>x</b>")
    chips = tab.page.locator(".drawing .chip").all_inner_texts()
    assert "</" in chips
    assert tab.page.locator(".drawing b").count() == 0


@pytest.mark.parametrize("model", ["story-gpt", "untrained"])  # 6 blocks, and 12 of GPT-2 small's shape
def test_the_whole_model_is_on_one_screen_and_a_block_unfolds_beside_the_others(new_tab, model):
    tab = new_tab(width=1280, height=720).open(model=model, unfolded="-1")
    close_sidebar(tab)
    assert bottom(tab) <= 712
    next_block = block(tab, 4).bounding_box()["y"]
    block(tab, 3).click()
    tab.page.get_by_role("group", name="Inside Transformer block 3").wait_for()
    tab.settle()
    assert bottom(tab) <= 712
    assert block(tab, 4).bounding_box()["y"] == pytest.approx(next_block, abs=30)
    assert drawing(tab).evaluate(FAULTS) == []
    tab.check()


@pytest.mark.measured
@pytest.mark.parametrize("explained", ["0", "1"])
def test_no_text_of_the_drawing_is_cut_or_lies_on_another(tab, explained):
    tab.open(model="untrained", explained=explained)
    for width in (390, 820, 1000, 1280, 1920):
        tab.page.set_viewport_size({"width": width, "height": 1080})
        tab.settle()
        box = drawing(tab).bounding_box()
        assert drawing(tab).evaluate(FAULTS) == [], width
        assert box["x"] + box["width"] <= width


def test_the_drawing_is_read_from_the_text_to_the_next_token(tab):
    tab.open(unfolded="1")
    assert drawing(tab).locator(".title").all_inner_texts() == [
        *("Your text", "Token embedding", "Positional embedding", "Dropout"),
        *("Transformer block 0", "Transformer block 1"),
        *("LayerNorm 1", "Masked multi-head attention, 6 heads", "Dropout", "Shortcut: add to the stream"),
        *("LayerNorm 2", "Feed-forward network (MLP) with GELU", "Dropout", "Shortcut: add to the stream"),
        *(f"Transformer block {layer}" for layer in range(2, 6)),
        *("Final LayerNorm", "Output head", "Next token"),
    ]


def test_a_block_is_picked_from_a_run_by_keyboard(new_tab, deep_address):
    tab = new_tab(deep_address, width=1280, height=720).open(model="deep", unfolded="-1")
    close_sidebar(tab)
    run = tab.page.get_by_role("button", name="Transformer blocks 3 to 20: 18 blocks")
    assert "3,280 parameters each" in run.inner_text()
    run.focus()
    tab.page.keyboard.press("Enter")
    assert run.get_attribute("aria-expanded") == "true"
    assert drawing(tab).locator(".pick").all_inner_texts() == [str(layer) for layer in range(3, 21)]
    for _ in range(5):
        tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    tab.wait_for_query(model="deep", unfolded="7")
    tab.page.get_by_role("group", name="Inside Transformer block 7").wait_for()
    tab.settle()
    assert block(tab, 7).evaluate("node => node === node.getRootNode().activeElement")
    tab.page.get_by_role("button", name="Transformer blocks 3 to 6: 4 blocks").click()
    tab.page.get_by_role("button", name="Transformer blocks 8 to 20: 13 blocks").click()
    assert bottom(tab) <= 712
    assert drawing(tab).evaluate(FAULTS) == []
    tab.check()
