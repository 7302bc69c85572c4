"""The app without a browser: every page, any text, link or model; and what pages keep, compute and share."""

import html
import json
import re
from itertools import pairwise
from pathlib import Path

import patience
import pytest
import streamlit as st
import torch
from page_table import EXPERIMENTS, OWN_TEXTS, PAGES, WORDS_ALONE
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash
from tiny import tiny_model

import gptviz
from gptviz import hub
from gptviz.engine import Engine
from gptviz.model import GPTModel
from gptviz.tokens import END_OF_TEXT, END_OF_TEXT_ID, gpt2_tokenizer
from gptviz.ui import models, settings
from gptviz.ui.page import EXAMPLE

APP = Path(__file__).parents[1] / "app.py"
EVERY_PAGE = pytest.mark.parametrize("page", PAGES)
EVERY_PAGE_OF_THE_TEXT = pytest.mark.parametrize("page", sorted(PAGES.keys() - OWN_TEXTS))
# Where all pages share the same code, the fast suite tests one page and the slow suite tests them all.
ONE_PAGE, ONE_PAGE_OF_THE_TEXT = (
    pytest.mark.parametrize(
        "page", [pytest.param(page, marks=() if page == "attention" else pytest.mark.slow) for page in pages]
    )
    for pages in (PAGES, sorted(PAGES.keys() - OWN_TEXTS))
)
HOSTILE = '<script>window.hacked=1</script> <img src=x onerror="window.hacked=1"> &lt;b&gt; </div>'
TEXTS = {
    "one token": "Hello",
    "html": HOSTILE,
    "markdown and latex": "# *a* **b** `c` ``d [e](f) $\\frac{1}{2}$ $$x$$ :red[g] :material/home: | h |\n---\n- i",
    "any script": "👩‍👩‍👧 🏳️‍🌈 👍🏽 שלום עולם مرحبا \t\r\n\x00\x07\u200b\u2028",
    "several tokens": "The cat sat on the mat.",
    "emoji": "👍🏽",
    "right to left": "مرحبا",
    "white space": " \n\n \t",
    "a backtick": "`",
    "a combining mark": "\u0301",
}
FAST_TEXTS = 4


@pytest.fixture(autouse=True)
def this_machine(monkeypatch, tmp_path):
    """No hub model is on this machine, none can be downloaded, and the user has no models of their own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("a download was started"))
    monkeypatch.delenv(models.OWN_MODELS_VARIABLE, raising=False)
    st.set_option("client.showErrorDetails", "full")  # Show the text of any exception on the page.


@pytest.fixture(autouse=True)
def served_as_an_app(monkeypatch):
    """Set up pages as the server does: AppTest runs app.py without it; see `gptviz.ui.server.restrict`."""
    start = PagesManager.__init__

    def started(self, *args, **kwargs):
        start(self, *args, **kwargs)
        PagesManager.uses_pages_directory = False

    monkeypatch.setattr(PagesManager, "__init__", started)


def open_page(page="", **query):
    """Return a new session whose first request is this link."""
    app = AppTest.from_file(APP, default_timeout=patience.SECONDS)
    app._bidi_component_manager = _COMPONENTS.get("manager")  # found only once: it takes longer than a page
    app.query_params |= query
    go_to(app, page)
    _COMPONENTS["manager"] = app._bidi_component_manager
    return app


_COMPONENTS = {}


def go_to(app, page):
    app._page_hash = calc_hash(page)
    return app.run()


def check_page(app, page):
    assert not app.exception, [f"{error.message} {error.stack_trace}" for error in app.exception]
    assert not failed(app), "a part of the page failed: its traceback is in the log"
    assert PAGES[page].lower() in heading(app).lower()


def heading(app):
    """Return the page's heading, which is a piece of HTML."""
    (found,) = [re.search("<h1>(.*?)</h1>", html.unescape(body)) for body in bodies(app) if "<h1>" in body]
    return found[1]


def bodies(app):
    """Return the pieces of HTML on the page."""
    return [element.proto.body for element in app.get("html")]


def failed(app):
    """Return the keys of the buttons that restart a failed part, one per part of the page that failed."""
    return [button.key for button in app.button if button.label == "Start this page again"]


def position(app):
    """Return the token picker. Its key changes with the text."""
    (picker,) = [box for box in app.selectbox if box.key.removesuffix("-2") == "position"]
    return picker


def charts(app):
    return [json.loads(element.proto.spec) for element in app.get("plotly_chart")]


def has_content(app, page):
    return app.expander if page in WORDS_ALONE else charts(app) or app.dataframe


def notices(app):
    """Return the notices about settings in the link that could not be used, one sentence each."""
    boxes = [box.value for box in app.info if box.icon == ":material/link:"]
    assert len(boxes) <= 1
    return [sentence for box in boxes for sentence in box.split("  \n")]


@pytest.fixture
def calls(monkeypatch):
    """Log story-gpt's calls during a test: "run" for an engine's run, "stream" for a pass through all its blocks."""
    log = []
    story_blocks = 6

    def logged(name, function, is_story):
        def call(self, *args, **kwargs):
            if is_story(self):
                log.append(name)
            return function(self, *args, **kwargs)

        return call

    monkeypatch.setattr(Engine, "run", logged("run", Engine.run, lambda engine: engine.name == "story-gpt"))
    is_story = lambda model: len(model.trf_blocks) == story_blocks  # noqa: E731
    monkeypatch.setattr(GPTModel, "stream", logged("stream", GPTModel.stream, is_story))
    return log


# --- every page, any text ---------------------------------------------------------------------------


def test_the_page_table_is_read():
    assert PAGES.items() >= {"tokens": "Tokens", "attention": "Attention", "next_token": "Next token"}.items()
    assert "" in PAGES, "one page is the default"
    assert {"ablation", "patching"} <= EXPERIMENTS < PAGES.keys()
    assert {"patching", "glossary"} == OWN_TEXTS
    assert {"glossary"} == WORDS_ALONE


def check_text(app, page, text, bos):
    check_page(app, page)
    assert not app.error
    assert not notices(app)
    assert app.text_area(key="text").value == text
    assert app.toggle(key="bos").value is bos
    assert has_content(app, page)


@EVERY_PAGE
def test_every_page_shows_any_text(page):
    app = open_page(page)
    for number, text in enumerate([*TEXTS.values()][:FAST_TEXTS]):
        app.toggle(key="bos").set_value(number % 2 == 1)
        app.text_area(key="text").set_value(text).run()
        check_text(app, page, text, number % 2 == 1)


@pytest.mark.slow
@EVERY_PAGE
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_every_page_opens_with_any_text(page, bos, text):
    check_text(open_page(page, text=text, bos=str(int(bos))), page, text, bos)


@EVERY_PAGE_OF_THE_TEXT
def test_an_empty_text_is_answered_with_an_example(page):
    app = open_page(page, text="")
    check_page(app, page)
    assert not charts(app)
    assert "There is no text yet" in app.info[0].value
    (example,) = (button for button in app.button if button.label == "Show me an example")
    example.click().run()
    check_page(app, page)
    assert not app.info
    assert app.text_area(key="text").value == EXAMPLE
    assert app.query_params == {"text": EXAMPLE}


@ONE_PAGE_OF_THE_TEXT
def test_an_empty_text_behind_the_start_token_is_one_token(page):
    app = open_page(page, text="", bos="1")
    check_page(app, page)
    assert not app.info
    assert charts(app) or app.dataframe


@ONE_PAGE_OF_THE_TEXT
@pytest.mark.parametrize("bos", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_text_longer_than_the_context_is_cut_and_says_by_how_much(page, bos):
    text = "A very long day. " * 60
    n_tokens = len(gpt2_tokenizer().encode(text, bos=bos))
    app = open_page(page, text=text, bos=str(int(bos)))
    check_page(app, page)
    (warning,) = app.warning
    assert f"has {n_tokens:,} tokens" in warning.value
    assert f"the last {n_tokens - 256:,} are left out" in warning.value


@pytest.mark.parametrize("length", [256, 257])
def test_a_text_as_long_as_the_context_is_whole(length):
    app = open_page("attention", text="a" + " a" * (length - 1))
    check_page(app, "attention")
    assert len(app.warning) == length - 256


@ONE_PAGE_OF_THE_TEXT
def test_a_text_too_long_for_a_link_is_left_out_of_it_and_the_page_says_so(page):
    app = open_page(page)
    app.text_area(key="text").set_value("word " * 2000).run()
    check_page(app, page)
    assert app.query_params == {}
    assert any("too long for a link" in caption.value for caption in app.caption)


@pytest.mark.parametrize("page", ["tokens", "next_token"])
def test_a_tokens_html_reaches_the_page_escaped(page):
    ids = gpt2_tokenizer().encode(HOSTILE).ids
    app = open_page(page, text=HOSTILE, continuation="-".join(str(id) for id in ids))
    check_page(app, page)
    written = [element.proto.body for element in app.get("html")]
    written += [element.value for element in app.markdown if element.proto.allow_html]
    assert "script</span>" in "".join(written), "the tokens are shown"
    for body in written:
        assert not re.search("<(?!/?(div|span|br|style|h1|p|strong|code|button)[ >])", body)


def test_the_tokens_page_counts_and_lists_the_tokens():
    tokens = gpt2_tokenizer().encode("Héllo wörld 👍", bos=True)
    app = open_page("tokens", text="Héllo wörld 👍", bos="1")
    table = app.dataframe[0].value
    assert table["id"].tolist() == list(tokens.ids)
    assert table["token"].tolist() == list(tokens.strings)
    assert b"".join(bytes.fromhex(raw) for raw in table["bytes"]) == b"".join(tokens.bytes)
    assert app.metric[0].value == str(len(tokens))


def test_merges_go_from_bytes_to_tokens():
    app = open_page("tokens", text="the effort")
    app.selectbox(key="word").select(1).run()
    n_merges = app.slider[0].max
    assert n_merges >= 5
    app.slider[0].set_value(0).run()
    assert any("7 bytes, before any merge" in caption.value for caption in app.caption)
    check_page(app, "tokens")


# --- links ------------------------------------------------------------------------------------------


WORDS = ["9" * 400, "x", "-1", "", "nan", "-inf", "1e999", "٣", "<b>", "0-", "\x00", "0-1-2-3-4-5-6-7-8-9-99999", "11"]


@EVERY_PAGE
@pytest.mark.parametrize("word", WORDS[:1] + [pytest.param(word, marks=pytest.mark.slow) for word in WORDS[1:]])
def test_any_link_opens_a_view(page, word):
    app = open_page(page, **{setting.name: word for setting in settings.SETTINGS if setting is not settings.TEXT})
    check_page(app, page)
    assert not app.error
    assert notices(app)


@pytest.mark.parametrize(
    ("page", "query", "link", "sentences"),
    [
        (
            "attention",
            {"layer": "99", "head": "-3", "token": "50"},
            {"layer": "5", "head": "0", "token": "50"},
            {"layer 99; the nearest here is 5", "head -3; the nearest here is 0", "token 50; the nearest here is 12"},
        ),
        (
            "attention",
            {"layer": "two", "token": "-50", "model": "gpt5", "bos": "yes"},
            {"token": "-50"},
            {
                "layer could not be read",
                "token -50; the nearest here is 0",
                "no model of that name",
                "bos could not be read",
            },
        ),
        (
            "next_token",
            {"k": "1000", "temperature": "7", "top_p": "0", "top_k": "-1", "seed": "x", "continuation": "13-x"},
            {"k": "50", "temperature": "2.0", "top_p": "0.05"},
            {
                "k 1000; the nearest here is 50",
                "temperature 7.0; the nearest here is 2.0",
                "top_p 0.0; the nearest here is 0.05",
                "top_k -1; the nearest here is 0",
                "seed could not be read",
                "continuation could not be read",
            },
        ),
        (
            "next_token",
            {"temperature": "nan", "continuation": "13-50257"},
            {},
            {"temperature could not be read", "tokens that this model does not know"},
        ),
        ("tokens", {"word": "99"}, {"word": "8"}, {"word 99; the nearest here is 8"}),
    ],
)
def test_a_link_that_fits_nothing_says_what_is_shown_instead(page, query, link, sentences):
    app = open_page(page, **query)
    check_page(app, page)
    assert len(notices(app)) == len(sentences)
    for sentence in sentences:
        assert any(sentence in notice for notice in notices(app)), sentence
    assert app.query_params == link
    app.run()
    assert not notices(app), "it is said once"


def test_an_unknown_parameter_is_dropped():
    app = open_page("attention", foo="bar", layer="3")
    assert app.query_params == {"layer": "3"}


def test_a_link_opens_its_view():
    link = {"text": "One two three four", "layer": "3", "head": "1", "token": "2", "bos": "1"}
    app = open_page("attention", **link)
    check_page(app, "attention")
    assert not notices(app)
    assert app.query_params == link
    assert app.number_input(key="layer").value == 3
    assert app.number_input(key="head").value == 1
    assert position(app).value == 2
    tokens = gpt2_tokenizer().encode("One two three four", bos=True)
    weights = gptviz.load("story-gpt").run(tokens)["pattern", 3][1]
    assert any(f"<td>{weights[2].max():.4f}</td>" in element.proto.body for element in app.get("html"))


def test_the_link_holds_what_differs_from_the_start_and_nothing_else():
    app = open_page("next_token")
    assert app.query_params == {}
    app.number_input(key="k").set_value(5).run()
    assert app.query_params == {"k": "5"}
    app.slider(key="temperature").set_value(0.5).run()
    app.slider(key="top_p").set_value(0.9).run()
    app.text_area(key="text").set_value("Hi & bye? #1 100%").run()
    assert app.query_params == {"k": "5", "temperature": "0.5", "top_p": "0.9", "text": "Hi & bye? #1 100%"}
    app.number_input(key="k").set_value(10).run()
    app.slider(key="temperature").set_value(1.0).run()
    app.slider(key="top_p").set_value(1.0).run()
    app.text_area(key="text").set_value(settings.TEXT.default).run()
    assert app.query_params == {}


def test_settings_survive_page_changes():
    app = open_page("attention")
    app.number_input(key="layer").set_value(4).run()
    app.number_input(key="head").set_value(0).run()
    position(app).select(3).run()
    app.text_area(key="text").set_value("A cat and a dog and a bird").run()
    app.toggle(key="bos").set_value(True).run()
    link = {"layer": "4", "head": "0", "token": "3", "text": "A cat and a dog and a bird", "bos": "1"}
    for page in PAGES:
        check_page(go_to(app, page), page)
        assert app.query_params == link, page
        assert not notices(app)
    go_to(app, "attention")
    assert [app.number_input(key=key).value for key in ("layer", "head")] == [4, 0]
    assert position(app).value == 3
    assert app.text_area(key="text").value == "A cat and a dog and a bird"
    assert app.toggle(key="bos").value is True


def test_the_last_token_stays_chosen_when_the_text_grows():
    app = open_page("attention", text="one two")
    assert position(app).value == 1
    app.text_area(key="text").set_value("one two three").run()
    assert position(app).value == 2


def test_a_chosen_token_past_a_shorter_text_becomes_its_last():
    app = open_page("attention")
    position(app).select(9).run()
    app.text_area(key="text").set_value("one two").run()
    check_page(app, "attention")
    assert position(app).value == 1
    assert not notices(app)


# --- writing ----------------------------------------------------------------------------------------


def press(app, key):
    app.button(key=key).click().run()
    check_page(app, "next_token")


def continuation(app):
    word = app.query_params.get("continuation", "")
    return [int(id) for id in word.split("-") if id]


@pytest.mark.parametrize(
    "query",
    [pytest.param({}, marks=pytest.mark.slow), {"temperature": "0.8", "top_k": "20", "top_p": "0.9", "seed": "1"}],
)
def test_the_buttons_write_what_generate_writes(story, query):
    query = {"text": "Once upon a time", **query}
    how = {
        "temperature": float(query.get("temperature", 1)),
        "top_k": int(query["top_k"]) if "top_k" in query else None,
        "top_p": float(query.get("top_p", 1)),
        "seed": int(query.get("seed", 0)),
    }
    expected = [token.id for token in story.generate("Once upon a time", 23, **how)]
    app = open_page("next_token", **query)
    for n_tokens in (1, 2):
        press(app, "add-one")
        assert continuation(app) == expected[:n_tokens]
    press(app, "add-several")
    assert continuation(app) == expected[:22]
    press(app, "undo")
    assert continuation(app) == expected[:21]
    press(app, "add-one")
    assert continuation(app) == expected[:22]
    press(app, "clear")
    assert continuation(app) == []
    assert app.button(key="undo").disabled
    assert app.query_params == query


def test_writing_ends_where_the_context_is_full(monkeypatch, tmp_path):
    path = save_checkpoint(tmp_path / "writer.pth")
    monkeypatch.setenv(models.OWN_MODELS_VARIABLE, str(path))
    app = open_page("next_token", text="a" + " a" * 29, model=path.name)
    press(app, "add-one")
    press(app, "add-several")
    assert len(continuation(app)) == 2
    assert app.button(key="add-one").disabled
    assert app.button(key="add-several").disabled
    assert any("The context is full" in caption.value for caption in app.caption)


def test_writing_ends_where_the_model_ends_its_text():
    app = open_page("next_token", text="They all lived happily ever after. The end.", temperature="0.0")
    press(app, "add-several")
    assert continuation(app) == [END_OF_TEXT_ID]


def test_another_text_or_model_takes_the_continuation_away():
    for change in (
        lambda app: app.text_area(key="text").set_value("Another text").run(),
        lambda app: app.toggle(key="bos").set_value(True).run(),
        lambda app: app.selectbox(key="model").select("gpt2").run(),
    ):
        app = open_page("next_token", continuation="11-13")
        assert continuation(app) == [11, 13]
        change(app)
        assert continuation(app) == []


# --- models -----------------------------------------------------------------------------------------


@ONE_PAGE
def test_a_model_that_is_not_here_offers_its_download_and_leaves_the_other_in_use(page, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was touched"))
    app = open_page(page, text="Hello there")
    usual = charts(app)
    app.selectbox(key="model").select("gpt2").run()
    check_page(app, page)
    assert any("GPT-2 small" in text.value and "0.5 GB to download" in text.value for text in app.markdown)
    assert any("Below you see story-gpt" in text.value for text in app.markdown)
    assert "Download GPT-2 small" in [button.label for button in app.button]
    assert charts(app) == usual
    assert app.query_params == {"text": "Hello there", "model": "gpt2"}


def test_a_link_to_a_model_that_is_not_here_shows_the_bundled_one():
    app = open_page("attention", model="gpt2-xl", layer="3")
    check_page(app, "attention")
    assert any("6.2 GB to download" in text.value for text in app.markdown)
    assert charts(app)


def test_a_download_that_fails_says_why_and_leaves_the_model_in_use(monkeypatch):
    def fail(repo, progress):
        raise hub.DownloadError(f"The hub could not be reached, so {repo} was not downloaded.")

    monkeypatch.setattr(hub, "download", fail)
    app = open_page("attention", model="distilgpt2")
    (button,) = (button for button in app.button if button.label == "Download DistilGPT2")
    button.click().run()
    check_page(app, "attention")
    assert [error.value for error in app.error] == [
        "The hub could not be reached, so distilbert/distilgpt2 was not downloaded."
    ]
    assert charts(app)


def save_checkpoint(path, **changes):
    model = tiny_model(**changes)
    config = {"emb_dim": 16, "n_heads": 4, "n_layers": 3, "context_length": 32, "vocab_size": 50257, "drop_rate": 0.1}
    torch.save({"model_state_dict": model.state_dict(), "config": {**config, "qkv_bias": True, **changes}}, path)
    return path


@ONE_PAGE_OF_THE_TEXT
def test_models_of_ones_own_are_offered(page, monkeypatch, tmp_path):
    path = save_checkpoint(tmp_path / f"mine{page}.pth")
    monkeypatch.setenv(models.OWN_MODELS_VARIABLE, str(path))
    app = open_page(page, text="Hello " * 40)
    assert f"{path.name} (yours)" in app.selectbox(key="model").options
    app.selectbox(key="model").select(path.name).run()
    check_page(app, page)
    assert not app.error
    assert "this model takes 32" in app.warning[0].value
    assert app.query_params["model"] == path.name
    assert str(tmp_path) not in str(app.query_params)


def write_broken(kind, path):
    if kind == "junk":
        path.write_bytes(b"junk" * 100)
    elif kind == "code":
        torch.save({"model": pytest}, path)
    elif kind == "shape":
        state_dict = tiny_model().state_dict()
        state_dict["trf_blocks.1.ff.layers.0.weight"] = torch.zeros(3, 3)
        torch.save(state_dict, path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "cut":
        save_checkpoint(path)
        path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    "kind",
    ["code", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("missing", "junk", "shape", "folder", "cut"))],
)
def test_a_broken_model_is_one_sentence_and_the_other_stays(kind, monkeypatch, tmp_path):
    path = tmp_path / f"broken-{kind}.pth"
    if kind == "code":
        monkeypatch.setattr("pickle.whichmodule", lambda *_: "pytest", raising=False)
        path.write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    else:
        write_broken(kind, path)
    monkeypatch.setenv(models.OWN_MODELS_VARIABLE, str(path))
    app = open_page("attention")
    usual = charts(app)
    app.selectbox(key="model").select(path.name).run()
    check_page(app, "attention")
    (error,) = app.error
    assert len(error.value) < 400
    assert "\n" not in error.value
    assert any("story-gpt (bundled) stays in use" in caption.value for caption in app.caption)
    assert charts(app) == usual


@ONE_PAGE
def test_a_model_for_another_tokenizer_is_one_sentence(page, monkeypatch, tmp_path):
    path = save_checkpoint(tmp_path / f"letters{page}.pth", vocab_size=100)
    monkeypatch.setenv(models.OWN_MODELS_VARIABLE, str(path))
    app = open_page(page, model=path.name)
    check_page(app, page)
    assert "another tokenizer" in app.error[0].value
    assert has_content(app, page)


# --- what is computed -------------------------------------------------------------------------------


@ONE_PAGE
def test_sessions_with_the_same_text_share_one_run(page, calls):
    link = {"text": f"A text that no other test has, on page {page}."}
    check_page(open_page(page, **link), page)
    in_one_session = list(calls)
    if page == "attention":
        assert calls == ["run", "stream"]
    for _ in range(2):
        check_page(open_page(page, **link), page)
    assert calls == in_one_session


def test_pages_share_one_run(calls):
    app = open_page(text="A text that goes from page to page.")
    on_one_page = list(calls)
    for page in PAGES.keys() - EXPERIMENTS:  # The experiments run the model in other ways.
        check_page(go_to(app, page), page)
    assert calls == on_one_page


def test_another_head_or_layer_runs_no_model(calls):
    app = open_page("attention", text="A text whose heads are all looked at.")
    assert calls == ["run", "stream"]
    maps = [charts(app)[0]]
    for key, value in (("head", 0), ("head", 3), ("layer", 4), ("layer", 0)):
        app.number_input(key=key).set_value(value).run()
        maps.append(charts(app)[0])
    assert calls == ["run", "stream"]
    assert all(one != other for one, other in pairwise(maps))


def test_temperature_runs_no_model(calls):
    app = open_page("next_token", text="A text whose temperature changes.")
    app.slider(key="temperature").set_value(0.1).run()
    app.slider(key="top_p").set_value(0.5).run()
    assert calls == ["run", "stream"]


def test_the_start_token_is_shown_where_it_is_put_in_front():
    app = open_page("tokens", bos="1", text="Hello")
    assert app.dataframe[0].value["token"].tolist() == [END_OF_TEXT, "Hello"]
    app.toggle(key="bos").set_value(False).run()
    assert app.dataframe[0].value["token"].tolist() == ["Hello"]
