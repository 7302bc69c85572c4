"""The main path of each experiment, in headless Chromium."""

from urllib.parse import urlencode

import pytest

pytestmark = pytest.mark.browser
TEXT = "The cat sat on the mat. The cat"


def metrics(tab):
    return tab.page.get_by_test_id("stMetricValue").all_inner_texts()


def test_clicks_switch_parts_off_and_on_again(tab):
    tab.open("ablation", text=TEXT, off="")
    assert metrics(tab)[0] == "0.0000 nats"
    board = tab.chart("board")
    board.click(2, 5)
    tab.page.get_by_text("L5H2", exact=True).first.wait_for()
    tab.wait_for_query(text=TEXT, off="L5H2")
    tab.settle()
    assert metrics(tab)[0] != "0.0000 nats"
    board.click(7, 0)  # the MLP of layer 0
    tab.wait_for_query(text=TEXT, off="L5H2-L0mlp")
    tab.settle()
    board.click(7, 0)
    tab.wait_for_query(text=TEXT, off="L5H2")
    tab.check()
    tab.screenshot("ablation-used")


def test_parts_are_switched_off_by_the_keyboard(tab):
    tab.open("ablation", text=TEXT, off="")
    field = tab.page.get_by_role("combobox", name="Switched off")
    field.focus()
    field.press_sequentially("L3H1")
    tab.page.get_by_role("option", name="L3H1").wait_for()
    field.press("ArrowDown")  # past "select all"
    field.press("Enter")
    tab.wait_for_query(text=TEXT, off="L3H1")
    tab.settle()
    tab.check()


def test_a_patch_map_fills_and_its_head_is_found(tab):
    tab.open("patching")
    tab.page.get_by_text("Head by head", exact=True).click()
    tab.wait_for_query(patched="z")
    tab.settle()
    tab.page.get_by_text("Most comes back at layer 5").wait_for()
    assert "recovered" in tab.chart("patched-map").hover(2, 5)
    assert tab.page.locator(".st-key-stop").count() == 0, "all is done"
    tab.check()


def test_patching_can_be_stopped_and_taken_up(tab):
    """The model has GPT-2 small's size, so patching takes a while."""
    words = " the cat sat" * 14
    query = urlencode({"model": "untrained", "clean": "A dog" + words, "corrupted": "A cow" + words})
    tab.page.goto(f"{tab.address}/patching?{query}")
    tab.page.locator(".st-key-stop button").click()  # Streamlit has its own Stop button.
    tab.page.get_by_role("button", name="Go on").wait_for()
    tab.settle()
    shown = tab.page.get_by_text("Patching:").first.inner_text()
    tab.page.wait_for_timeout(1500)
    assert tab.page.get_by_text("Patching:").first.inner_text() == shown
    tab.page.get_by_role("button", name="Go on").click()
    tab.page.get_by_text("Patching:").first.wait_for(state="detached")
    tab.settle()
    tab.check()


def test_prompts_of_other_lengths_say_what_to_do(tab):
    tab.open("patching", clean="A cat", corrupted="A cat and")
    tab.page.get_by_text("positions must match").wait_for()
    field = tab.page.get_by_role("textbox", name="Corrupted prompt")
    field.fill("A dog")
    field.press("Enter")
    tab.chart("patched-map").plot.wait_for()
    tab.settle()
    tab.check()


def test_another_text_and_another_model_stand_beside(tab):
    tab.open("compare", text=TEXT)
    box = tab.page.get_by_role("textbox", name="Other text")
    box.fill("The dog sat on the mat. The dog")
    box.press("Control+Enter")
    tab.wait_for_query(text=TEXT, other_text="The dog sat on the mat. The dog")
    tab.settle()
    assert metrics(tab)[0] != "0.0000 nats"
    tab.page.get_by_role("button", name="Trained against untrained").click()
    tab.page.get_by_text("story-gpt, untrained").first.wait_for()
    tab.settle()
    tab.check()
    tab.screenshot("compare-used")


def test_dropout_scatters_more_at_a_higher_rate(tab):
    tab.open("dropout", text=TEXT)
    slider = tab.page.get_by_role("slider", name="Rate")
    for rate in ("0.15", "0.2", "0.25", "0.3"):
        slider.focus()
        slider.press("ArrowRight")
        tab.wait_for_query(text=TEXT, rate=rate)
        tab.settle()
    tab.page.get_by_text("the rest times 1.43").wait_for()
    tab.page.get_by_text("Training", exact=True).click()
    tab.page.get_by_text("nothing changes").wait_for()
    tab.settle()
    tab.check()


def test_gradients_are_measured_with_and_without_shortcuts(tab):
    tab.open("gradients", text=TEXT)
    names = [trace["name"] for trace in tab.chart("gradients").data()]
    assert names == ["this model", "without shortcuts", "untrained", "untrained, without"]
    tab.page.get_by_text("MLP", exact=True).click()
    tab.wait_for_query(text=TEXT, group="ff")
    tab.page.get_by_text("Gradient × input", exact=True).click()
    tab.page.get_by_text("a rough measure").wait_for()
    tab.settle()
    tab.check()


def press(tab, text):
    tab.page.get_by_text(text, exact=True).first.click()


def type_into(tab, label, text):
    field = tab.page.get_by_role("textbox", name=label, exact=True)
    field.fill(text)
    field.press("Control+Enter" if label == "Other text" else "Enter")


LAST_ACTIONS = {
    "ablation": (lambda tab: press(tab, "mean"), {"replacement": "mean"}),
    "patching": (lambda tab: type_into(tab, "Clean prompt", "A cow and a"), {"clean": "A cow and a"}),
    "compare": (lambda tab: type_into(tab, "Other text", "A cow"), {"other_text": "A cow"}),
    "dropout": (lambda tab: press(tab, "attention weights"), {"dropped": "embedding-shortcut"}),
    "gradients": (lambda tab: press(tab, "LayerNorm 1"), {"group": "norm1"}),
    "embeddings": (lambda tab: press(tab, "Positional"), {"embedding": "pos_embed"}),
}


@pytest.mark.parametrize("page", LAST_ACTIONS)
def test_what_was_chosen_last_is_there_when_one_comes_back(tab, page):
    """The widget is in a fragment, and Streamlit forgets such a value when another page is opened."""
    act, expected = LAST_ACTIONS[page]
    tab.open(page)
    act(tab)
    tab.wait_for_query(**expected)
    tab.settle()
    tab.go("Tokens")
    tab.wait_for_query(**expected)
    tab.page.go_back()
    tab.settle()
    tab.wait_for_query(**expected)
    tab.check()


def test_examples_can_be_tried_one_after_another_after_a_link_to_another_page(tab):
    tab.open("ablation", replacement="mean")
    tab.go("Patching")
    for _ in range(2):
        for name in ("He or she", "Little dog, little cat"):
            tab.page.get_by_role("button", name=name).click()
            tab.page.get_by_text("Most comes back at layer 0").wait_for()
            tab.settle()
            tab.check()
    assert tab.query["replacement"] == "mean"
