"""The app as users meet it: in headless Chromium, by mouse, keyboard and link."""

import re

import pytest
from browser import app_server
from hub_server import serving
from page_table import PAGES, WORDS_ALONE
from tiny import gpt2_config, gpt2_tensors, tiny_model, write_folder

from gptviz.charts import DARK, LIGHT

pytestmark = pytest.mark.browser

EVERY_PAGE = pytest.mark.parametrize("page", PAGES)
TEXT = "The cat sat on the mat. The cat"


def number(tab, label):
    return tab.page.get_by_role("spinbutton", name=label, exact=True)


def chosen_token(tab):
    return tab.page.get_by_role("combobox", name="Token").input_value()


# --- what the user sees -----------------------------------------------------------------------------


@EVERY_PAGE
@pytest.mark.parametrize(("scheme", "theme"), [("light", LIGHT), ("dark", DARK)])
def test_every_page_shows_its_charts_in_the_modes_colours_and_asks_nobody_else(new_tab, page, scheme, theme):
    tab = new_tab(scheme=scheme).open(page)
    tab.check()
    if page not in {"tokens"} | WORDS_ALONE:
        assert tab.n_charts() > 0
    colors = tab.page.eval_on_selector_all(".js-plotly-plot", "plots => plots.map(plot => plot.layout.font.color)")
    assert set(colors) <= {theme.text}
    drawn = tab.page.eval_on_selector_all(
        ".js-plotly-plot",
        "plots => plots.filter(plot => plot.checkVisibility())"
        ".map(plot => plot.querySelectorAll('.main-svg path, .main-svg image, canvas').length)",
    )
    assert all(drawn)
    tab.screenshot(f"{page or 'start'}-{scheme}")


@EVERY_PAGE
def test_every_page_fits_a_projector(new_tab, page):
    tab = new_tab(width=1920, height=1080).open(page)
    tab.check()
    assert tab.page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 1920
    tab.screenshot(f"{page or 'start'}-projector")


def wait_for_colors(tab, theme):
    tab.page.wait_for_function(
        """color => [...document.querySelectorAll('.js-plotly-plot')]
            .every(plot => plot.layout.font.color === color)""",
        arg=theme.text,
    )


def test_another_mode_gives_the_charts_its_colours(tab):
    tab.open("attention")
    wait_for_colors(tab, LIGHT)
    tab.page.emulate_media(color_scheme="dark")  # The system may switch to dark mode in the evening.
    wait_for_colors(tab, DARK)
    tab.page.get_by_test_id("stMainMenu").locator("button").first.click()
    tab.page.get_by_text("Light").last.click()
    wait_for_colors(tab, LIGHT)
    tab.page.keyboard.press("Escape")
    tab.settle()
    tab.check()
    state, quiet = tab.page.locator('[data-testid="stApp"]'), []
    while quiet[-10:] != [True] * 10:  # Afterwards the page is quiet: no run triggers another.
        assert len(quiet) < 1000
        tab.page.wait_for_timeout(100)
        quiet.append(state.get_attribute("data-test-script-state") == "notRunning")


# --- links and text ---------------------------------------------------------------------------------


def test_a_link_is_opened_by_a_server_that_answered_nothing_before(browser, new_tab, tmp_path):
    with app_server(tmp_path) as address:
        tab = new_tab(address).open("attention", layer="3", head="1", token="2")
        tab.check()
        assert number(tab, "Layer").input_value() == "3"
        assert number(tab, "Head").input_value() == "1"
        assert chosen_token(tab) == "2 · ␣a"
        assert tab.query == {"layer": "3", "head": "1", "token": "2"}


def test_a_text_goes_along_to_every_page_and_into_the_link(tab, new_tab):
    text = "Two cats & 100% more? #1 + é 👍"
    tab.open().type(text)
    tab.wait_for_query(text=text)
    for title in PAGES.values():
        tab.go(title)
        assert tab.text == text
        tab.wait_for_query(text=text)
        tab.check()
    tab.go("Next token")
    other = new_tab()
    other.page.goto(tab.page.url)
    other.page.locator("h1").wait_for()
    other.settle()
    assert other.text == text
    assert other.page.locator("h1").inner_text() == "Next token"


def test_a_copied_link_opens_the_same_view(tab, new_tab):
    tab.open("attention").type("One two three four five")
    number(tab, "Head").fill("1")
    number(tab, "Head").press("Enter")
    tab.wait_for_query(text="One two three four five", head="1")
    other = new_tab()
    other.page.goto(tab.page.url)
    other.settle()
    assert other.chart("attention-map").data() == tab.chart("attention-map").data()


def test_back_leads_to_the_page_before_with_the_settings_as_they_are(tab):
    tab.open(text="One two three")
    tab.go("Attention")
    for _ in range(3):
        number(tab, "Head").press("ArrowDown")
        tab.settle()
    tab.wait_for_query(text="One two three", head="2")
    assert tab.page.title() == "L2H2 · Attention · gptviz"
    tab.go("Tokens")
    assert tab.page.title() == "Tokens · gptviz"
    tab.type("One two three four")
    tab.page.go_back()
    tab.page.wait_for_url("**/attention?**")
    tab.settle()
    tab.wait_for_query(text="One two three four", head="2")
    assert tab.page.title() == "L2H2 · Attention · gptviz"
    assert number(tab, "Head").input_value() == "2"
    tab.page.go_back()
    tab.settle()
    assert "attention" not in tab.page.url
    assert tab.page.title() == "Bird's-eye view · gptviz"
    tab.page.go_forward()
    tab.page.wait_for_url("**/attention?**")
    tab.settle()
    tab.wait_for_query(text="One two three four", head="2")
    tab.check()


def test_a_value_that_does_not_fit_leaves_the_address(tab):
    tab.open("attention", text="One two three", head="99", layer="-3")
    tab.wait_for_query(text="One two three", layer="0")
    assert number(tab, "Head").input_value() == "5"
    tab.check()


# --- attention by hand ------------------------------------------------------------------------------


def test_layer_and_head_step_by_arrow_keys_and_buttons(tab, story):
    tab.open("attention", text=TEXT)
    layer = number(tab, "Layer")
    layer.focus()
    layer.press("ArrowUp")
    tab.wait_for_query(text=TEXT, layer="3")
    layer.press("ArrowUp")
    tab.wait_for_query(text=TEXT, layer="4")
    layer.press("ArrowDown")
    tab.wait_for_query(text=TEXT, layer="3")
    head = tab.page.get_by_test_id("stNumberInput").filter(has=number(tab, "Head"))
    head.get_by_test_id("stNumberInputStepDown").click()
    tab.wait_for_query(text=TEXT, layer="3", head="4")
    tab.settle()
    weights = story.run(TEXT)["pattern", 3][4]
    (hovered,) = re.findall(r"weight\D*([01]\.\d{4})", tab.chart("attention-map").hover(2, 5))
    assert float(hovered) == pytest.approx(weights[5, 2], abs=5.1e-5)


def test_the_heat_map_names_query_key_and_weight(tab, story):
    tab.open("attention", text=TEXT)
    weights, strings = story.run(TEXT)["pattern", 2][5], story.tokenize(TEXT).strings
    for query, key in ((4, 1), (7, 7), (8, 0)):
        said = tab.chart("attention-map").hover(key, query)
        assert f"query {strings[query]}" in said
        assert f"key {strings[key]}" in said
        assert f"{weights[query, key]:.4f}" in said


@pytest.mark.parametrize("side", [0, 1])
def test_a_click_on_a_token_of_the_lines_chooses_it(tab, side):
    tab.open("attention", text=TEXT)
    tab.chart("attention-lines").click(side, 3)
    tab.wait_for_query(text=TEXT, token="3")
    tab.settle()
    tab.chart("attention-lines").click(side, 5)
    tab.wait_for_query(text=TEXT, token="5")
    tab.settle()
    assert chosen_token(tab) == "5 · ␣mat"
    tab.check()


# --- writing ----------------------------------------------------------------------------------------


def test_tokens_are_written_one_by_one_and_several_and_taken_back(tab, story):
    how = {"temperature": 0.8, "top_p": 0.9, "seed": 3}
    expected = [str(token.id) for token in story.generate(TEXT, 22, **how)]
    link = {"text": TEXT, **{name: str(value) for name, value in how.items()}}
    tab.open("next_token", **link)
    button = {name: tab.page.get_by_role("button", name=name, exact=True) for name in ("Undo", "Clear", "Add 20")}
    assert button["Undo"].is_disabled()
    for n_tokens in (1, 2):
        tab.page.get_by_role("button", name="Add one token").click()
        tab.wait_for_query(**link, continuation="-".join(expected[:n_tokens]))
    button["Add 20"].click()
    tab.wait_for_query(**link, continuation="-".join(expected))
    button["Undo"].click()
    tab.wait_for_query(**link, continuation="-".join(expected[:-1]))
    button["Clear"].click()
    tab.wait_for_query(**link)
    tab.check()


def test_a_click_right_after_typing_writes_on_the_new_text(tab, story):
    tab.open("next_token", temperature="0.0")
    tab.page.get_by_label("Text", exact=True).fill("Once upon a")
    tab.page.get_by_role("button", name="Add one token").click()
    (token,) = story.generate("Once upon a", 1)
    tab.wait_for_query(temperature="0.0", text="Once upon a", continuation=str(token.id))
    tab.check()


def test_writing_can_be_stopped_and_keeps_what_was_written(tab):
    tab.open("next_token", model="untrained", text="Hi")
    tab.page.get_by_role("button", name="Add 20", exact=True).click()
    tab.page.locator("span[title^='position 2 ']").wait_for()
    stop = tab.page.get_by_test_id("stMain").get_by_role("button", name="Stop")
    stop.click()
    stop.wait_for(state="hidden")
    tab.settle()
    written = tab.query["continuation"].split("-")
    assert 2 <= len(written) < 20
    assert tab.page.get_by_test_id("stMain").locator("span[title^='position']").count() == len(written)
    tab.check()


# --- models -----------------------------------------------------------------------------------------


def choose_model(tab, name):
    tab.page.get_by_test_id("stSidebar").get_by_test_id("stSelectbox").locator("input").click()
    tab.page.get_by_role("option", name=name).click()
    tab.settle()


def test_a_model_comes_from_the_hub_with_progress_and_is_then_in_use(new_tab, tmp_path):
    # The model is large enough for huggingface_hub to report progress, which it does every 10 MB.
    model, config = tiny_model(tied_head=True, emb_dim=128), gpt2_config(tied_head=True, n_embd=128)
    folder = write_folder(tmp_path / "repo", gpt2_tensors(model), config)
    files = {f"openai-community/gpt2/{path.name}": path.read_bytes() for path in folder.iterdir()}
    with serving(files) as hub, app_server(tmp_path / "app", HF_ENDPOINT=hub.url) as address:
        hub.hold_after = 15_000_000
        tab = new_tab(address).open("attention", text=TEXT, head="1")
        before = tab.chart("attention-map").data()
        choose_model(tab, "GPT-2 small")
        tab.page.get_by_text("0.5 GB to download, once").wait_for()
        assert tab.chart("attention-map").data() == before
        assert hub.requests == []
        tab.page.get_by_role("button", name="Download GPT-2 small").click()
        tab.page.get_by_test_id("stProgress").get_by_text(re.compile(r"1\d of 2\d MB")).wait_for()
        hub.hold_after = None
        tab.page.get_by_text("0.5 GB to download, once").wait_for(state="hidden")
        tab.settle()
        tab.check()
        assert tab.query == {"text": TEXT, "head": "1", "model": "gpt2"}
        assert tab.chart("attention-map").data() != before
        assert number(tab, "Layer").get_attribute("max") == "2"  # the GPT-2 on the test's hub has 3 blocks


def test_without_a_hub_one_sentence_says_so_and_the_model_stays(tab):
    tab.open("attention", text=TEXT)
    before = tab.chart("attention-map").data()
    choose_model(tab, "DistilGPT2")
    tab.page.get_by_role("button", name="Download DistilGPT2").click()
    error = tab.page.get_by_test_id("stAlertContentError")
    error.wait_for()
    assert "The hub could not be reached" in error.inner_text()
    assert "story-gpt" in error.inner_text()
    tab.settle()
    assert tab.chart("attention-map").data() == before
    assert tab.page.get_by_test_id("stException").count() == 0


@pytest.mark.slow
def test_a_thousand_tokens_of_gpt2_smalls_size_can_be_looked_at(tab):
    text = "a" + " a" * 999
    tab.open("attention", model="untrained", text=text)
    tab.check()
    assert chosen_token(tab) == "999 · ␣a"
    assert tab.chart("attention-map").plot.locator("image, path").count() > 0
    number(tab, "Head").press("ArrowDown")
    tab.wait_for_query(model="untrained", text=text, head="4")
    tab.settle()
    tab.chart("attention-lines").click(0, 30)  # The lines begin at position 960.
    tab.wait_for_query(model="untrained", text=text, head="4", token="990")
    tab.check()


# --- by keyboard ------------------------------------------------------------------------------------

# All visible controls, including those inside components. Left out: the small buttons beside a number or a list (the
# arrow keys do the same), the toolbars of charts and tables (shown on hover), and Streamlit's own frame.
CONTROLS = """() => {
    const within = root => [...root.querySelectorAll('*')].flatMap(element =>
        [element, ...(element.shadowRoot ? within(element.shadowRoot) : [])])
    return within(document).filter(control =>
        control.matches('input, textarea, button, a[href], [role=slider], [role=combobox], summary')
        && control.checkVisibility({opacityProperty: true, visibilityProperty: true}) && !control.disabled
        && control.getBoundingClientRect().width > 0
        && !control.matches('[data-testid^=stNumberInputStep], [aria-hidden=true], [aria-label=Open][tabindex="-1"]')
        && !control.closest('.modebar, [data-testid=stElementToolbar], [data-testid=stDataFrame]')
        && !control.closest('[data-testid=stToolbar]')
        && !(control.type === "radio" && !control.checked)  // arrow keys go on from the checked one
        && !(control.matches('[role=radio]') && control.ariaChecked !== "true")
    )
}"""
FOCUSED = """() => {
    let element = document.activeElement
    while (element.shadowRoot?.activeElement) element = element.shadowRoot.activeElement
    element.dataset.reached = 1
}"""


@EVERY_PAGE
def test_every_control_is_reached_by_tab(tab, page):
    tab.open(page)
    n_controls = tab.page.evaluate(f"({CONTROLS})().length")
    assert n_controls > 5
    for _ in range(2 * n_controls + 40):
        tab.page.keyboard.press("Tab")
        tab.page.evaluate(FOCUSED)
    missed = tab.page.evaluate(
        f"""({CONTROLS})().filter(control => !control.dataset.reached && !control.querySelector('[data-reached]')
            && !control.closest('[data-reached]')).map(control => control.outerHTML.slice(0, 300))"""
    )
    assert missed == []
