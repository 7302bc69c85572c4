"""Hostile text in the browser: none of the user's tags, links, images, formulas, icons or colours takes effect."""

import os

import pytest
import torch
from browser import app_server
from test_browser import EVERY_PAGE
from tiny import TINY, tiny_model

from gptviz.tokens import gpt2_tokenizer

pytestmark = pytest.mark.browser

# Every kind of markup that is interpreted on the way: HTML, Markdown, Streamlit's shortcodes, Plotly's labels.
HOSTILE = {
    "html": '<script>window.hacked=1</script><img src=x onerror="window.hacked=1"><b>bold</b>',
    "markdown": "[link](http://evil.example/) ![i](http://evil.example/i.png) # h **b** www.evil.example",
    "shortcodes": ":material/skull: :red[red] :blue-badge[badge] :skull: :streamlit: $x^2$ $$y$$ -> %{x}",
}
# Finds what must not appear on any part of the page; formulas count only where the page has none of its own.
TAKEN_EFFECT = """() => {
    const within = root => [...root.querySelectorAll('*')].flatMap(element =>
        [element, ...(element.shadowRoot ? within(element.shadowRoot) : [])])
    const own = element => element.closest('[data-testid=stHeader], [data-testid=stToolbar]')
    return within(document).filter(element => !own(element) && (
        element.matches('a[href*=evil], img[src*=evil], img[src=x], img[alt="Streamlit logo"]')
        || (element.matches('script') && element.textContent.includes('hacked'))
        || (element.matches('[role=img][aria-label*=skull], [data-testid=stIconMaterial]')
            && element.textContent.includes('skull'))
        || (element.matches('.katex') && /y|x\\^2/.test(element.querySelector('annotation')?.textContent ?? ''))
        || (element.matches('b, strong, tspan[style*="font-weight:bold"], tspan[style*="font-weight: bold"]')
            && element.textContent === 'bold')
        || (element.matches('[style*="color"], .stMarkdownBadge') && ['red', 'badge'].includes(element.textContent)
            && element.childElementCount === 0 && element.matches('.stMarkdown span'))
        || (element.childElementCount === 0 && element.textContent.includes('💀'))
    )).map(element => element.outerHTML.slice(0, 200))
}"""


def check(tab):
    tab.check()
    assert tab.page.evaluate("window.hacked") is None
    assert tab.page.evaluate(TAKEN_EFFECT) == []


def test_the_check_sees_what_takes_effect(tab):
    """Insert each kind of effect into a page by hand."""
    tab.open("tokens")
    for markup in (
        "<a href='http://evil.example'>x</a>",
        "<img src=x>",
        "<i data-testid=stIconMaterial>skull</i>",
        "<b>bold</b>",
        "<span class=katex><annotation>x^2</annotation></span>",
        "<p>💀</p>",
        "<script>window.hacked = 1</script>",
    ):
        tab.page.evaluate("markup => {document.querySelector('h1').innerHTML = markup}", markup)
        assert len(tab.page.evaluate(TAKEN_EFFECT)) == 1, markup


@EVERY_PAGE
def test_no_markup_of_a_text_takes_effect(tab, page):
    text = " ".join(HOSTILE.values())
    ids = gpt2_tokenizer().encode(text).ids
    words = {"probe": HOSTILE["shortcodes"], "target": HOSTILE["html"], "against": HOSTILE["markdown"]}
    tab.open(page, text=text, continuation="-".join(str(id) for id in ids), token="5", step="pattern", **words)
    check(tab)
    assert tab.text == text
    point_at_charts(tab)
    open_lists(tab)
    check(tab)
    if page in ("tokens", "next_token"):
        said = tab.page.get_by_test_id("stMain").inner_text()
        assert all(word in said for word in ("script", "evil", "material"))


def point_at_charts(tab):
    """Point at the first charts so that their labels appear."""
    for plot in tab.page.locator(".js-plotly-plot").all()[:6]:
        if plot.is_visible():
            plot.scroll_into_view_if_needed()
            box = plot.bounding_box()
            for share in (0.35, 0.6):
                tab.page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] * share)
                tab.page.wait_for_timeout(40)


def open_list(tab, box):
    """Open a list of options; retry, because a page drawn at the same moment closes the list."""
    option = tab.page.get_by_role("option").first
    for tries in range(8):
        box.focus()
        box.press("ArrowDown")
        for _ in range(15 * 2**tries):
            if option.is_visible():
                return
            tab.page.wait_for_timeout(100)
        tab.page.keyboard.press("Escape")
    option.wait_for()


def open_lists(tab):
    """Open the lists of tokens and words, and check their options."""
    boxes = tab.page.get_by_test_id("stMain").get_by_test_id("stSelectbox").locator("input")
    for number in range(min(2, boxes.count())):
        open_list(tab, boxes.nth(number))
        assert tab.page.evaluate(TAKEN_EFFECT) == []
        tab.page.keyboard.press("Escape")


def test_a_links_words_in_notices_are_text(tab):
    text = " ".join(HOSTILE.values())
    tab.open("attention", layer=text, model=text, reading=text, token=text, view=text)
    tab.page.get_by_test_id("stAlert").filter(has_text="The link").wait_for()
    check(tab)


@pytest.fixture(scope="module")
def hostile_models(browser, tmp_path_factory):
    """An app whose own models and tensors have names that look like markup; one of its files cannot be read."""
    folder = tmp_path_factory.mktemp("hostile")
    state = tiny_model().state_dict()
    names = {
        "**bold** [l](www.evil.example) :skull: :red[red] $x^2$.pth": {},
        "<b>bold<b> :streamlit: -> ![i](x).pth": {},
        "wrong :skull: <img src=x>.pth": {
            "[l](http:evil) ![i](http:evil) :red[red] <b>bold</b> $x^2$ :skull:": torch.ones(2)
        },
    }
    for name, extra in names.items():
        torch.save({"model_state_dict": state | extra, "config": dict(TINY)}, folder / name)
    (folder / "junk **bold** :skull: $x^2$ www.evil.example.pth").write_bytes(b"junk")
    paths = os.pathsep.join(str(path) for path in sorted(folder.iterdir()))
    if ":" in "".join(path.name for path in folder.iterdir()) and os.pathsep == ":":
        paths = os.pathsep.join(str(renamed(path)) for path in sorted(folder.iterdir()))
    with app_server(tmp_path_factory.mktemp("app"), GPTVIZ_MODELS=paths) as address:
        yield address, [path.name for path in sorted(folder.iterdir())]


def renamed(path):
    """Rename the file to a name without the character that separates paths."""
    return path.rename(path.with_name(path.name.replace(":", "꞉")))


def test_names_of_models_and_tensors_are_text(new_tab, hostile_models):
    address, names = hostile_models
    for name in names:
        tab = new_tab(address).open("attention", model=name)
        tab.page.get_by_test_id("stSidebar").get_by_test_id("stSelectbox").locator("input").click()
        assert tab.page.get_by_role("option").count() > 7
        assert tab.page.evaluate(TAKEN_EFFECT) == []
        assert tab.page.evaluate("window.hacked") is None
        errors = tab.page.get_by_test_id("stAlertContentError")
        if name.startswith(("junk", "wrong")):
            said = errors.first.inner_text().replace("\u2060", "")
            assert "cannot be read" in said or "[l](http:evil) ![i](http:evil) :red[red] <b>bold</b> $x^2$" in said
        else:
            assert errors.count() == 0
        tab.close()
