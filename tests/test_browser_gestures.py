"""Everyday gestures: typing and clicking in one movement, held keys, a server that was away, a page that fails.

Pauses are as long as a person's. No verdict depends on them or on the machine's speed: any order of events must end
well.
"""

import pytest
from browser import app_server, free_port
from page_table import PAGES
from test_browser import number

from gptviz.ui import settings

pytestmark = pytest.mark.browser

TEXTS = {
    "shorter": "Hi",
    "longer": settings.TEXT.default + " ran away over the hill, and the cat ran after it until the sun went down.",
    "another": "In a far land where nobody ever went, seven old kings sat around one small fire and told old tales.",
}
# For every page, a nearby control that a user may click right after typing.
CLICKS = {
    "": ["Explain each part"],
    "tokens": ["Word"],
    "embeddings": ["Positional"],
    "attention": ["Finder", "All heads", "One head"],
    "block": ["Next step"],
    "residual": ["Every part"],
    "next_token": ["Add one token"],
    "glossary": ["Ablation."],
    "ablation": ["Switch all on"],
    "patching": ["He or she"],
    "compare": ["Trained against untrained"],
    "dropout": ["Training"],
    "gradients": ["Gradient × input"],
}


def click_by_hand(tab, name, pause):
    """Press and release the mouse as a person does: pressing ends the typing, releasing makes the click."""
    target = tab.page.get_by_test_id("stMain").get_by_text(name, exact=True).first
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.mouse.down()
    tab.page.wait_for_timeout(pause)
    tab.page.mouse.up()


def check_whole(tab):
    """Assert that the page shows no error and that no part of it failed."""
    tab.check()
    assert tab.page.get_by_role("button", name="Start this page again").count() == 0


def test_every_page_has_a_click():
    assert CLICKS.keys() == PAGES.keys()


@pytest.mark.parametrize("page", CLICKS)
def test_typing_and_clicking_in_one_movement(tab, page):
    tab.open(page)
    for name in CLICKS[page]:
        for pause in (20, 90, 250):
            for text in TEXTS.values():
                tab.page.get_by_label("Text", exact=True).fill(text)
                click_by_hand(tab, name, pause)
                tab.settle()
                check_whole(tab)
                assert tab.text == text
                assert tab.query["text"] == text
                assert "token" not in tab.query, "nobody chose a token"
    tab.go("Tokens")
    assert tab.page.get_by_test_id("stMetricValue").first.inner_text() == str(len(TEXTS["another"].split()) + 2)
    tab.page.reload()
    tab.page.locator("h1").first.wait_for()
    tab.settle()
    check_whole(tab)
    assert tab.text == TEXTS["another"]


# --- keys -------------------------------------------------------------------------------------------


def value_of(slider):
    return float(slider.evaluate("slider => slider.ariaValueNow ?? slider.value"))


@pytest.mark.parametrize(
    ("page", "name", "label", "start", "end"),
    [
        ("next_token", "temperature", "Temperature", "1.3", "0.0"),
        ("next_token", "top_p", "Top-p", "0.9", "0.05"),
        ("dropout", "rate", "Rate", "0.85", "0.0"),
    ],
)
def test_a_key_that_is_held_moves_a_slider_to_its_end(tab, page, name, label, start, end):
    tab.open(page, **{name: start})
    slider = tab.page.get_by_role("slider", name=label)
    slider.focus()
    for _ in range(round((float(start) - float(end)) / 0.05)):
        tab.page.keyboard.press("ArrowLeft")
        tab.page.wait_for_timeout(40)
    tab.wait_for_query(**{name: end})
    tab.settle()
    assert value_of(slider) == float(end)
    check_whole(tab)


def test_a_key_that_is_held_moves_through_the_merges(tab):
    tab.open("tokens", text=" internationalization")
    slider = tab.page.get_by_role("slider", name="Merges done")
    slider.focus()
    for _ in range(int(value_of(slider))):
        tab.page.keyboard.press("ArrowLeft")
        tab.page.wait_for_timeout(40)
    tab.page.get_by_text("bytes, before any merge").wait_for()
    tab.settle()
    assert value_of(slider) == 0


def test_a_key_that_is_held_steps_a_number_to_its_end(tab):
    tab.open("next_token", k="1")
    box = number(tab, "Show")
    box.focus()
    for _ in range(49):
        tab.page.keyboard.press("ArrowUp")
        tab.page.wait_for_timeout(30)
    tab.wait_for_query(k="50")
    tab.settle()
    assert box.input_value() == "50"


@pytest.mark.parametrize(
    ("page", "label", "name"), [("tokens", "Text", "text"), ("compare", "Other text", "other_text")]
)
def test_enter_applies_a_text_and_shift_enter_begins_a_line(tab, page, label, name):
    tab.open(page)
    box = tab.page.get_by_label(label, exact=True)
    box.fill("")
    box.press_sequentially("One")
    box.press("Enter")
    tab.wait_for_query(**{name: "One"})
    box.press_sequentially(" two")
    box.press("Shift+Enter")
    box.press_sequentially("three")
    box.press("Enter")
    tab.wait_for_query(**{name: "One two\nthree"})
    tab.settle()
    assert box.input_value() == "One two\nthree"
    check_whole(tab)


def test_lines_that_are_pasted_stay_lines(tab):
    tab.open("tokens")
    box = tab.page.get_by_label("Text", exact=True)
    box.fill("")
    tab.page.keyboard.insert_text("One\n\ntwo\n")  # An input method or the clipboard inserts text like this.
    box.press("Enter")
    tab.wait_for_query(text="One\n\ntwo\n")


# --- a server that was away -------------------------------------------------------------------------


class Restarted:
    """A server that can be stopped and restarted at the same address; after a restart it knows no sessions."""

    def __init__(self, folder):
        self.folder, self.port, self.n_starts = folder, free_port(), 0
        self.start()

    def start(self):
        self.n_starts += 1
        self.server = app_server(self.folder / str(self.n_starts), port=self.port)
        self.address = self.server.__enter__()

    def stop(self):
        self.server.__exit__(None, None, None)


@pytest.fixture
def server(tmp_path):
    server = Restarted(tmp_path)
    yield server
    server.stop()


def wait_until(tab, connection):
    """Wait for the connection state; the browser tries to reconnect at growing intervals."""
    tab.page.locator(f'[data-testid="stApp"][data-test-connection-state="{connection}"]').wait_for()


def restart(tab, server):
    server.stop()
    tab.page.locator('[data-testid="stApp"]:not([data-test-connection-state="CONNECTED"])').wait_for()
    server.start()
    wait_until(tab, "CONNECTED")


def test_the_first_edit_after_a_restart_counts(new_tab, server):
    tab = new_tab(server.address).open("attention", text="One two three", layer="3")
    restart(tab, server)
    tab.type("Four five six seven")
    tab.wait_for_query(text="Four five six seven", layer="3")
    tab.settle()
    assert tab.text == "Four five six seven"
    check_whole(tab)

    restart(tab, server)
    number(tab, "Head").press("ArrowDown")  # This control is in a fragment, which the new session does not know.
    tab.wait_for_query(text="Four five six seven", layer="3", head="4")
    tab.settle()
    assert number(tab, "Head").input_value() == "4"
    check_whole(tab)


def test_a_text_half_typed_when_the_server_restarts_stays_and_counts(new_tab, server):
    tab = new_tab(server.address).open("ablation", text="One two three")
    box = tab.page.get_by_label("Text", exact=True)
    box.fill("Four five six")
    restart(tab, server)
    tab.settle()
    assert tab.text == "Four five six"
    box.press("Enter")
    tab.wait_for_query(text="Four five six")
    check_whole(tab)


def test_a_text_too_long_for_a_link_survives_a_restart(new_tab, server):
    text = "word " * 2000
    tab = new_tab(server.address).open("tokens")
    tab.type(text)
    assert tab.query == {}
    said = tab.page.get_by_test_id("stMetricValue").first.inner_text()
    restart(tab, server)
    tab.settle()
    tab.page.get_by_role("combobox", name="Word").click()
    tab.settle()
    assert tab.text == text
    assert tab.page.get_by_test_id("stMetricValue").first.inner_text() == said
    tab.go(PAGES["block"])
    assert tab.text == text
    check_whole(tab)


# --- a page that fails ------------------------------------------------------------------------------

# Run Streamlit's command line with a fault: head 0 cannot be drawn.
FAILING = """
import sys
from gptviz import charts
attention_map = charts.attention_map

def fails_on_a_head(pattern, *args, **kwargs):
    from gptviz.ui import settings, state
    if state.get(settings.HEAD) == 0:
        raise ZeroDivisionError("a fault made by a test")
    return attention_map(pattern, *args, **kwargs)

charts.attention_map = fails_on_a_head
from streamlit.web.cli import main
sys.argv[0] = "streamlit"
main()
"""


def test_a_fragment_that_fails_says_so_and_starts_again(new_tab, tmp_path):
    with app_server(tmp_path, start=("-c", FAILING)) as address:
        tab = new_tab(address).open("attention", text="One two three", head="1")
        tab.check()
        number(tab, "Head").press("ArrowDown")
        again = tab.page.get_by_role("button", name="Start this page again")
        again.wait_for()
        tab.settle()
        assert tab.page.get_by_test_id("stException").count() == 0
        assert tab.page.get_by_text("Ask Google").count() == 0
        assert "Something went wrong here" in tab.page.get_by_test_id("stAlertContentError").inner_text()
        assert "ZeroDivisionError: a fault made by a test" in (tmp_path / "log").read_text()
        assert tab.text == "One two three"
        again.click()
        tab.wait_for_query(text="One two three")
        tab.settle()
        check_whole(tab)
        assert number(tab, "Head").input_value() == "5"


# --- notices ----------------------------------------------------------------------------------------


def test_all_notices_share_a_box_that_covers_nothing(tab):
    tab.open("next_token", k="1000", temperature="7", seed="x", top_k="-1", token="99")
    boxes = tab.page.get_by_test_id("stAlert").filter(has_text="The link")
    assert boxes.count() == 1
    assert boxes.inner_text().count("The link") == 5
    assert tab.page.get_by_test_id("stToast").count() == 0
    covered = boxes.evaluate(
        """box => {
            const mine = box.getBoundingClientRect()
            return [...document.querySelectorAll('input, textarea, button, a, h1, [role=slider]')].filter(other => {
                const it = other.getBoundingClientRect()
                return other.checkVisibility() && !box.contains(other) && it.width > 0
                    && it.left < mine.right && mine.left < it.right && it.top < mine.bottom && mine.top < it.bottom
            }).map(other => other.outerHTML.slice(0, 100))
        }"""
    )
    assert covered == []
    tab.screenshot("notices")
