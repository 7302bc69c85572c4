"""Every head one click away, and every cell a choice: menus, links, keyboard, full screen, in headless Chromium."""

from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.browser
TEXT = "Once upon a time there was a little dog. The little dog"
SIDE = 15  # pixels of a small map: the 13 tokens and a gap


def menu(tab):
    """Return the open menu of a head."""
    found = tab.page.get_by_role("menu")
    found.wait_for()
    return found


def follow(tab, item):
    menu(tab).get_by_role("menuitem", name=item).click()
    tab.settle()


def path(tab):
    return urlsplit(tab.page.url).path.strip("/")


def click_cell(key, x, y):
    return lambda tab: tab.chart(key).click(x, y)


def click_name(tab):
    tab.page.get_by_test_id("stMain").get_by_role("button", name="L5H2", exact=True).first.click()


# Where head 2 of layer 5 is named: the page, its settings, and the click that opens the menu.
PLACES = {
    "sentence": ("attention", {"layer": 5, "head": 2}, click_name),
    "finder's table": ("attention", {"view": "finder"}, click_name),
    "finder's grid": ("attention", {"view": "finder"}, click_cell("scores", 2, 5)),
    "all heads": (
        "attention",
        {"view": "all"},
        click_cell("all-heads", 2 * 15 + 6, 5 * 15 + 6),
    ),  # 13 tokens, a gap of 2
    "attribution": ("residual", {}, click_cell("attribution", 2, 5)),
    "patching": ("patching", {"patched": "z"}, click_cell("patched-map", 2, 5)),
    "first page": ("", {}, click_name),
}


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=() if place == "sentence" else pytest.mark.measured) for place in PLACES]
)
def test_a_head_named_anywhere_opens_the_same_menu(tab, place):
    page, query, click = PLACES[place]
    tab.open(page, text=TEXT, **query)
    click(tab)
    items = menu(tab).get_by_role("menuitem").all_inner_texts()
    assert items == ["See its attention", "Switch it off", "Patch it", "See its block"]
    assert menu(tab).get_attribute("aria-label") == "Head 2 of layer 5"
    follow(tab, "See its attention")
    assert path(tab) == "attention"
    assert (tab.query["layer"], tab.query["head"]) == ("5", "2")
    assert tab.page.title() == "L5H2 · Attention · gptviz"
    tab.check()


@pytest.mark.parametrize(
    ("item", "page", "expected"),
    [
        ("Switch it off", "ablation", {"off": "L5H2"}),
        ("Patch it", "patching", {"patched": "z"}),
        ("See its block", "block", {}),
    ],
)
def test_the_menu_leads_to_every_page_with_the_head(tab, item, page, expected):
    tab.open("attention", text=TEXT, layer=5, head=2)
    click_name(tab)
    follow(tab, item)
    assert path(tab) == page
    assert tab.query.items() >= {"layer": "5", "head": "2", **expected}.items()
    tab.page.go_back()
    tab.settle()
    assert path(tab) == "attention"
    tab.check()


def test_a_menu_closes_by_escape_and_by_a_click_elsewhere(tab):
    tab.open("attention", text=TEXT, layer=5, head=2)
    click_name(tab)
    menu(tab)
    tab.page.keyboard.press("Escape")
    assert tab.page.get_by_role("menu").count() == 0
    focused = tab.page.evaluate("document.activeElement.textContent")
    assert focused == "L5H2", "the focus is back where it was"
    click_name(tab)
    menu(tab)
    tab.page.locator("h1").click()
    assert tab.page.get_by_role("menu").count() == 0


# --- cells ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "query", "key", "cell", "token"),
    [
        ("attention", {}, "attention-map", (2, 6), "6"),
        ("attention", {"reading": "scores"}, "attention-map", (0, 4), "4"),
        ("attention", {}, "attention-lines", (1, 3), "3"),
        ("residual", {}, "lens", (7, 4), "7"),
        ("next_token", {}, "surprisal-bars", (8, 2), "8"),
        ("block", {}, "step-map-norm1_out", (50, 9), "9"),
    ],
)
def test_a_click_on_a_cell_chooses_its_token(tab, page, query, key, cell, token):
    tab.open(page, text=TEXT, **query)
    tab.chart(key).click(*cell)
    tab.settle()
    assert tab.query["token"] == token
    tab.check()


def test_a_click_on_a_cell_of_a_long_text_chooses_its_token(tab):
    text = "a" + " a" * 249
    tab.open("attention", text=text)
    tab.chart("attention-map").click(20, 200)
    tab.settle()
    assert abs(int(tab.query["token"]) - 200) <= 1, "a cell is about a pixel"
    tab.open("residual", text=text, token=100)
    tab.chart("lens").click(5, 3)
    tab.settle()
    assert tab.query["token"] == "93", "the lens shows 24 positions, from 88 on"


def test_cells_are_walked_and_opened_by_the_keyboard(tab):
    tab.open("attention", text=TEXT, view="finder")
    tab.page.wait_for_selector(".st-key-scores .js-plotly-plot[tabindex]")
    tab.chart("scores").plot.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):  # the first one shows the cursor
        tab.page.keyboard.press(key)
    assert tab.page.locator(".said").inner_text().startswith("layer 1, head 2")
    tab.page.keyboard.press("Enter")
    assert menu(tab).get_attribute("aria-label") == "Head 2 of layer 1"
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("ArrowUp")
    tab.page.keyboard.press("Enter")
    tab.settle()
    assert tab.query.items() >= {"layer": "1", "head": "2"}.items()
    tab.page.wait_for_selector(".st-key-attention-map .js-plotly-plot[tabindex]")
    tab.chart("attention-map").plot.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown"):
        tab.page.keyboard.press(key)
    tab.page.keyboard.press("Enter")
    tab.settle()
    assert tab.query["token"] == "2"
    tab.check()


def test_a_chip_chooses_its_token(tab):
    tab.open("tokens", text=TEXT, token_value="attends_to", layer=5, head=2)
    tab.page.locator(".chip").nth(7).click()
    tab.settle()
    assert tab.query["token"] == "7"
    assert tab.page.locator(".chip[aria-current=true]").inner_text() == "␣little"
    tab.check()


# --- the frame --------------------------------------------------------------------------------------


def test_the_link_is_copied(new_tab):
    tab = new_tab()
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.open("attention", text=TEXT, head="2")
    tab.page.get_by_role("button", name="Copy link").click()
    tab.page.get_by_role("button", name="Copied").wait_for()
    assert tab.page.evaluate("navigator.clipboard.readText()") == tab.page.url


def test_a_tablet_starts_with_the_sidebar_closed_and_the_text_one_touch_away(new_tab):
    tab = new_tab(width=820, height=1180).open("attention", text=TEXT)
    assert tab.page.get_by_test_id("stSidebar").get_attribute("data-collapsed") == "true"
    tab.page.locator(".edit-text").click()
    box = tab.page.get_by_label("Text", exact=True)
    box.wait_for()
    tab.page.wait_for_function("document.activeElement.tagName === 'TEXTAREA'")
    tab.type("One two three")
    tab.check()


def test_a_turned_tablet_and_a_new_session_draw_for_their_window(new_tab):
    tab = new_tab(width=820, height=1180).open("attention", text=TEXT)
    height = "document.querySelector('.st-key-attention-map .js-plotly-plot').offsetHeight"
    upright = tab.page.evaluate(height)
    tab.page.set_viewport_size({"width": 1180, "height": 600})
    tab.settle()
    assert tab.page.evaluate(height) < 600
    assert tab.page.evaluate(height) != upright
    (cookie,) = [one for one in tab.context.cookies() if one["name"] == "gptviz_window"]
    assert cookie["value"].endswith("x600x0")
    tab.check()


def test_stage_size_is_in_the_link_and_makes_charts_larger(new_tab):
    tab = new_tab(width=1920, height=1080).open("attention", text=TEXT)
    size = "document.querySelector('.st-key-attention-map .js-plotly-plot')._fullLayout.font.size"
    normal = tab.page.evaluate(size)
    tab.page.get_by_role("radio", name="Stage").click()
    tab.settle()
    assert tab.query["size"] == "stage"
    assert tab.page.evaluate(size) >= 0.022 * 1080 > normal
    tab.check()


def test_a_chart_in_full_screen_keeps_its_title_and_controls(tab):
    tab.open("attention", text=TEXT)
    tab.page.locator(".st-key-attention-map").hover()
    tab.page.locator(".st-key-attention-map .modebar-btn[data-title=Fullscreen]").click()
    bar = tab.page.locator(".full-screen-bar")
    bar.get_by_text("L2H5 · Attention").wait_for()
    bar.get_by_role("button", name="Controls").click()
    tab.page.get_by_role("spinbutton", name="Head", exact=True).press("ArrowDown")
    bar.get_by_text("L2H4 · Attention").wait_for()
    tab.settle()
    tab.page.keyboard.press("Escape")
    bar.wait_for(state="detached")
    assert tab.page.locator(".pinned").count() == 0
    tab.check()


def test_a_charts_change_is_announced(tab):
    tab.open("next_token", text=TEXT)
    tab.type("One two three")
    tab.page.wait_for_function("document.querySelector('.said').textContent.length > 10")
