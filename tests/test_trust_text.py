"""Any text: all of Unicode through tokens, run, every chart function and every page; nothing changed, nothing run.

How single characters are shown is tested in test_tokens.py, the browser's part in test_trust_browser.py.
"""

import html
import inspect
import json
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.Markdown_pb2 import Markdown
from test_app import (  # noqa: F401 - fixtures
    EVERY_PAGE,
    EVERY_PAGE_OF_THE_TEXT,
    check_page,
    has_content,
    notices,
    open_page,
    served_as_an_app,
    this_machine,
)
from test_trust_numbers import CALLS, RANKS

import gptviz.charts as charts_module
from gptviz.charts.theme import labels
from gptviz.tokens import END_OF_TEXT_ID, gpt2_tokenizer
from gptviz.ui.chips import _chips
from gptviz.ui.markdown import code, plain
from gptviz.ui.tables import _tables

HOSTILE = [
    "<script>window.hacked=1</script>",
    '<img src=x onerror="window.hacked=1">',
    "</div></span><h1>h</h1><style>*{display:none}</style>",
    "[link](http://evil.example/) ![image](http://evil.example/x.png) <http://evil.example> www.evil.example",
    "# h\n\n- i\n\n1. n\n\n> q\n\n| a | b |\n|---|---|\n\n---\n`c` ``d ~~e~~ **f** _g_",
    "$x^2$ $$\\frac{1}{2}$$ \\(a\\) \\[b\\] \\href{javascript:window.hacked=1}{x}",
    ":material/skull: :red[r] :blue-badge[b] :skull: :streamlit: -> <- -- ~=",
    "%{x} %{customdata[0]} %{y:.2f} {0} {} %s %(a)s ${a} {{a}}",
    "&lt;b&gt; &amp; &#60;script&#62; &nbsp",
    "<|endoftext|> <|endoftext|",
    "\x00\x01\x07\x08\x1b[31m\x7f\x80\x9f\r\n\t\v\f\x85\u2028\u2029",
    "שלום \u202emirrored\u202c \u2066iso\u2069 مرحبا \u200f\u200e\u061c",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L\u0301\u0301\u0301",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 ☺︎☺️ 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "\ufeff\ufffe\uffff\U0010ffff\ue000\U000f0000\u200b\u2060\u00ad",
    " \u00a0\u3000\u2003 \n \t ",
    "日本語 한국어 ไทย हिन्दी ქართული",
    "../../etc/passwd ; rm -rf / ' OR 1=1 --",
]
CHARACTERS = st.characters(codec=None, exclude_categories=())  # every code point, including lone surrogates
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=60),
    st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(CHARACTERS, max_size=8)), max_size=5).map("".join),
)
FROM_THE_WIRE = TEXTS.map(lambda text: text.encode("utf-8", "replace").decode())


# --- the library ------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.booleans())
def test_any_text_runs_and_stays_as_it_is(tiny, text, bos):
    tokens = tiny.tokenize(text, bos=bos)
    assert tokens[bos:].text == text
    assert (END_OF_TEXT_ID in tokens.ids[bos:]) is False
    assert "".join(tiny.tokenizer.words(text)) == text
    shown = tokens[:32]
    if not shown.ids:
        return
    trace = tiny.run(shown)
    assert np.isfinite(trace["pattern", 1]).all()
    json.dumps(trace.top_k()["token"].tolist(), ensure_ascii=False).encode()


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=8))
def test_a_label_is_its_string_and_nothing_in_it_is_read_by_plotly(strings):
    for label, whole in zip(labels(strings), strings, strict=True):
        assert not set(label) & set("<>$%")
        cut = whole if len(whole) <= 18 else whole[:17] + "…"
        assert html.unescape(label.replace("&amp;", "&#38;")) == html.unescape(html.escape(cut, quote=False))


# The chart functions whose arguments contain token strings; the others show only the program's own words.
WITH_STRINGS = sorted(
    set(CALLS)
    - {"dimension_lines", "gelu_curve", "head_grid", "position_similarity"}
    - {"parameter_treemap", "small_maps", "switch_board", "position_waves"}
)
ARRAY = np.tril(np.full((4, 4), 0.25, dtype=np.float32))


def drawn(name, strings):
    """Return the chart's figure as Streamlit and a notebook send it, with these four strings as its tokens."""
    draw = getattr(charts_module, name)
    cells = np.array([[f"{one}\n{other}" for one in strings] for other in strings])
    figure = {
        "depth_map": lambda: draw(ARRAY, ["low"] * 4, strings, what="p", text=cells, hover=cells),
        "depth_lines": lambda: draw(dict(zip(strings, ARRAY, strict=True)), ["low"] * 4, what="rank"),
        "token_lines": lambda: draw(dict(zip(strings, ARRAY, strict=True)), strings, what="length"),
        "next_token_bars": lambda: draw(
            pd.DataFrame(
                {"token": pd.Series(strings, dtype=object), "id": 0, "logit": 0.0, "probability": 0.5, "drawn": 0.5}
            )
        ),
        "next_token_pair": lambda: draw(
            pd.DataFrame(
                {"token": pd.Series(strings, dtype=object), "id": 0, "first": 0.5, "second": 0.5, "change": 0.0}
            ),
            tuple(strings[:2]),
        ),
        "dropped_map": lambda: draw(ARRAY, ARRAY, strings),
        "run_spread": lambda: draw(ARRAY, ARRAY[0], strings, what="probability"),
        "lens_map": lambda: draw(
            ARRAY.reshape(4, 4, 1), np.array(strings * 4, dtype=object).reshape(4, 4, 1), ["low"] * 4, strings
        ),
        "lens_rank_map": lambda: draw(
            RANKS,
            20,
            ARRAY.reshape(4, 4, 1),
            np.array(strings * 4, dtype=object).reshape(4, 4, 1),
            ["low"] * 4,
            strings,
        ),
        "principal_scatter": lambda: draw(ARRAY[:, :3], strings, ARRAY[3, :3]),
        "surprisal_bars": lambda: draw(strings, ARRAY[3]),
        "value_bars": lambda: draw(ARRAY[3], strings, what="logits", horizontal=True),
        "token_pair_map": lambda: draw(ARRAY, strings, what="score"),
    }.get(name, lambda: draw(ARRAY, strings))()
    return json.loads(figure.to_json())


def texts_in(part):
    if isinstance(part, dict):
        for key, value in part.items():
            if key not in ("hovertemplate", "texttemplate", "bdata", "template"):  # the program's own
                yield from texts_in(value)
    elif isinstance(part, list):
        for value in part:
            yield from texts_in(value)
    elif isinstance(part, str):
        yield part


def check_chart(name, strings):
    figure = drawn(name, strings)
    in_3d = figure["data"][0]["type"] == "scatter3d"
    for text in texts_in({"data": figure["data"], "layout": figure["layout"]}):
        plain = text.replace("<br>", "")
        assert not set(plain) & set("<>$") or (in_3d and plain.count("<") == plain.count("<\u2060")), text
    usual = drawn(name, list("wxyz"))["data"]
    for trace, usual_trace in zip(figure["data"], usual, strict=True):
        template, usual_template = (trace.get("hovertemplate", "") for trace in (trace, usual_trace))
        for sign in ("%{", "<", "$"):
            assert template.count(sign) == usual_template.count(sign), template


@pytest.mark.parametrize("name", WITH_STRINGS)
def test_every_chart_takes_any_strings(name):
    check_chart(name, ["%{x}", "<b>x</b>", "$x$", "<br>&lt;"])
    for first in range(0, len(HOSTILE), 4):
        check_chart(name, [*HOSTILE[first : first + 4], *"wxyz"][:4])

    @settings(max_examples=10, deadline=None, database=None)
    @given(st.lists(TEXTS, min_size=4, max_size=4, unique=True))
    def check(strings):
        check_chart(name, strings)

    check()


def test_every_chart_function_with_strings_is_named():
    functions = {name: getattr(charts_module, name) for name in charts_module.__all__}
    with_strings = {
        name
        for name, function in functions.items()
        if inspect.isfunction(function)
        and {"strings", "names", "series", "table"} & set(inspect.signature(function).parameters)
    }
    assert with_strings - {"dimension_lines", "position_waves"} == set(WITH_STRINGS)


# --- Markdown ---------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_a_sentence_with_any_name_in_it_is_one_line_without_markup(text):
    shown = plain(text)
    assert "\n" not in shown
    unescaped = shown.replace("\\", "")
    assert ":material/" not in unescaped
    for sign in "`*_{}[]<>#~$&|":
        assert shown.count(sign) == shown.count(f"\\{sign}")
    seen = shown.replace("\u2060", "")
    for sign in "`*_{}[]<>#~$&|\\":
        seen = seen.replace(f"\\{sign}", sign) if sign != "\\" else seen
    assert seen.replace("\\\\", "\\") == " ".join(text.replace("\u2060", "").split())


@settings(max_examples=300, deadline=None)
@given(TEXTS.map(lambda text: "".join(gpt2_tokenizer().encode(text).strings)))
def test_code_holds_what_is_in_it(shown):
    as_code = code(shown)
    fence = as_code[: len(as_code) - len(as_code.lstrip("`"))]
    assert as_code.endswith(fence)
    assert fence not in shown
    assert ":material/" not in as_code
    assert "\n" not in as_code


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_chips_are_text_only(text):
    tokens = gpt2_tokenizer().encode(text)
    chips = "".join(_chips(tokens, (0,), 0, ()))
    assert chips.count("<span") == len(tokens)
    assert {part.split(" ")[0].strip("/") for part in chips.replace(">", " ").split("<")[1:]} <= {"span", "br"}


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_a_table_shows_its_strings_and_nothing_becomes_markup(token, strings):
    strings = ["".join(gpt2_tokenizer().encode(string).strings).strip() for string in strings]  # no plain spaces inside
    shown = _tables({"After {}": pd.DataFrame({"token": strings, "weight": 0.5})}, token)
    tags = {part.split(" ")[0].strip("/") for part in shown.replace(">", " ").split("<")[1:]}
    assert tags <= {"div", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}
    cells = [html.unescape(cell.split("</td>")[0]) for cell in shown.split("<td>")[1:]]
    assert cells == [cell for string in strings for cell in (string, "0.5000")]
    assert html.unescape(shown.split("<code>")[1].split("</code>")[0]) == token


# --- the app ----------------------------------------------------------------------------------------


def test_a_lone_surrogate_can_neither_come_from_a_browser_nor_go_to_one():
    """So the pages need not handle lone surrogates; the library does."""
    state = ClientState(query_string="text=a")
    raw = state.SerializeToString().replace(b"text=a", b"t=\xed\xa0\x80")
    with pytest.raises(Exception, match=r"(?i)pars|utf"):
        ClientState.FromString(raw)
    with pytest.raises((UnicodeEncodeError, ValueError)):
        Markdown(body="\ud800")


def check_any_text(app, page, text):
    app.text_area(key="text").set_value(text).run()
    check_page(app, page)
    assert not app.error
    assert not notices(app)
    assert app.text_area(key="text").value == text
    if app.session_state["bos"] or text:
        assert has_content(app, page)
    for element in app.get("plotly_chart"):
        assert not any(tag in element.proto.spec for tag in ("<script", "<img", "</div>", "<h1>"))


def explore(page, n_texts):
    app = open_page(page)

    @settings(max_examples=n_texts, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(FROM_THE_WIRE)
    def check(text):
        check_any_text(app, page, text)

    check()


@EVERY_PAGE
def test_every_page_takes_texts_of_all_of_unicode(page):
    explore(page, 3)


@pytest.mark.slow
@EVERY_PAGE
def test_every_page_takes_very_many_texts(page):
    explore(page, 12)
    app = open_page(page)
    for text in HOSTILE:
        check_any_text(app, page, text)


LONG = {
    "letters": "ab" * 50_000,
    "one letter": "a" * 100_000,
    "dashes": "-" * 100_000,
    "spaces": " " * 100_000,
    "words": "word " * 20_000,
    "combining": "e" + "\u0301" * 99_999,
    "emoji": "👩‍👩‍👧" * 20_000,
    "markup": "<b>" * 33_333,
    "lines": "\n" * 100_000,
    "ascii": string.printable * 1000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_a_hundred_thousand_characters_are_cut_into_tokens_at_once(text):
    assert gpt2_tokenizer().encode(text).text == text


@EVERY_PAGE_OF_THE_TEXT
def test_every_page_takes_a_hundred_thousand_characters(page):
    app = open_page(page)
    for name in ("dashes", "emoji"):  # the longest tokens, and the most tokens
        app.text_area(key="text").set_value(LONG[name]).run()
        check_page(app, page)
        assert app.text_area(key="text").value == LONG[name]
        assert any("are left out" in warning.value for warning in app.warning)
        assert app.query_params == {}


@pytest.mark.parametrize("text", ["-" * 10_000, "日" * 5000, "👍" * 5000])
def test_a_word_of_any_length_does_not_keep_the_tokens_page_waiting(text):
    app = open_page("tokens", text="one two")
    app.text_area(key="text").set_value(text).run()
    check_page(app, "tokens")
    assert any("more than 256 bytes are not taken apart" in caption.value for caption in app.caption)
