"""Links between pages and choices in charts: what they write, and what they take from a browser."""

import re
from urllib.parse import parse_qs

import numpy as np
import pytest
import streamlit as st
from page_table import MODULES
from test_app import bodies, check_page, open_page, served_as_an_app  # noqa: F401 - a fixture

from gptviz.tokens import gpt2_tokenizer
from gptviz.ui import chips, links, settings, state
from gptviz.ui.glossary import tooltip
from gptviz.ui.settings import OPEN_HEAD

TEXT = "Once upon a time there was a little dog. The little dog"


@pytest.fixture
def session(monkeypatch):
    """Return a session's state, with all settings at their defaults."""
    values = {"_settings": {setting.name: setting.default for setting in settings.SETTINGS}, "_left_out": 0}
    values["_pages"] = {"attention": object(), "ablation": object()}
    monkeypatch.setattr(st, "session_state", values)
    return values


def go(session, monkeypatch, target):
    """Do what a browser asks for with this target."""
    session["links"] = type("Told", (), {"go": target})
    links._go()
    return session["_settings"]


def test_a_link_holds_the_page_and_the_settings_escaped():
    made = links.link('<b>"x"', "next_token", {settings.TEXT: 'a & b "c"', settings.TOKEN: 3})
    assert "&lt;b&gt;&quot;x&quot;</button>" in made
    assert 'data-go="next_token"' in made
    (query,) = re.findall('data-settings="(.*?)"', made)
    assert parse_qs(query.replace("&amp;", "&")) == {"text": ['a & b "c"'], "token": ["3"]}


def test_a_heads_link_names_the_head():
    assert 'data-head="5-2"' in links.head_link(5, 2)
    assert ">L5H2<" in links.head_link(5, 2)


def test_a_term_has_a_tooltip_and_leads_to_the_glossary():
    made = links.with_terms("The [[keys|Key]] of a **head** in [[nats]], `<b>`.")
    assert made.count("<button") == 2
    assert f'title="{tooltip("Nats")}"' in made
    assert 'data-go="glossary" data-settings="term=Key"' in made
    assert "<strong>head</strong>" in made
    assert "<code>&lt;b&gt;</code>" in made
    with pytest.raises(KeyError):
        links.with_terms("[[no such term]]")


def test_every_term_on_a_page_is_in_the_glossary():
    explained = [links.with_terms(module.ABOUT.explanation) for module in MODULES]
    assert sum("data-go=" in explanation for explanation in explained) >= 10
    assert not any("[[" in explanation for explanation in explained)


def test_what_a_link_asks_for_is_done(session, monkeypatch):
    chosen = go(session, monkeypatch, {"page": "attention", "settings": {"layer": 4, "head": 1, "view": "one"}})
    assert (chosen["layer"], chosen["head"], chosen["view"]) == (4, 1, "one")
    assert state.take_wish() == "attention"
    assert state.take_wish() is None


def test_switching_a_head_off_leaves_others_off_and_does_nothing_twice(session, monkeypatch):
    assert session["_settings"]["off"] == OPEN_HEAD
    for _ in range(2):
        chosen = go(session, monkeypatch, {"page": "ablation", "off": "L5H2"})
        assert chosen["off"] == ["L5H2"], "the open head was off only as an example"
    assert go(session, monkeypatch, {"off": "L1H0"})["off"] == ["L5H2", "L1H0"]


def test_a_cell_of_the_board_switches_a_part_off_and_on(session, monkeypatch):
    assert go(session, monkeypatch, {"switch": "L0mlp"})["off"] == ["L2H5", "L0mlp"]
    assert go(session, monkeypatch, {"switch": "L0mlp"})["off"] == ["L2H5"]


@pytest.mark.parametrize(
    "forged",
    [
        None,
        7,
        "attention",
        [],
        {"page": "no such page"},
        {"page": ["attention"]},
        {"page": {}},
        {"settings": 7},
        {"settings": ["layer"]},
        {"settings": {"layer": "<b>", "no such setting": 1, "token": None, "dimensions": [1], "rate": "nan"}},
        {"settings": {"off": "L2H5-<script>"}},
        {"switch": "<script>"},
        {"switch": 5},
        {"switch": "open"},
        {"off": ["L5H2"]},
        {"off": "L5H2-L0mlp"},
    ],
)
def test_a_forged_link_changes_nothing(session, monkeypatch, forged):
    before = dict(session["_settings"])
    assert go(session, monkeypatch, forged) == before
    assert state.take_wish() is None


def test_what_a_component_told_is_none_once_the_page_has_changed(session):
    assert state.told("links", "go") is None


@pytest.mark.parametrize("told", [None, "800x600", [800], [800, 600], [800.0, 600, 0], ["800", "600", "0"], {}])
def test_a_forged_window_changes_nothing(monkeypatch, told):
    monkeypatch.setattr(st, "session_state", {"_window": state.USUAL_WINDOW})
    state.put_window(told)
    assert state.window() == state.USUAL_WINDOW


def test_a_window_is_within_reason(monkeypatch):
    monkeypatch.setattr(st, "session_state", {})
    state.put_window([1, 10**9, 1])
    assert state.window() == (200, 8000, True)
    state.put_window([700, 900, 0])
    assert state.window() == (700, 900, False)


# --- sentences and chips on the pages ----------------------------------------------------------


def test_the_open_head_is_described_with_what_its_absence_costs():
    app = open_page("attention", text=TEXT, layer="5", head="2")
    check_page(app, "attention")
    (told,) = [body for body in bodies(app) if "induction head" in body]
    assert 'data-head="5-2"' in told
    assert "Without it, <code>␣was</code>" in told


def test_ablation_starts_with_the_open_head_and_then_keeps_its_parts():
    app = open_page("ablation", text=TEXT, layer="4", head="1")
    assert app.multiselect(key="off").value == ["L4H1"]
    assert "off" not in app.query_params, "nobody switched anything yet"
    app.multiselect(key="off").set_value(["L0H0"]).run()
    assert app.query_params["off"] == "L0H0"


@pytest.mark.parametrize("value", [str(value) for value in settings.TokenValue])
def test_tokens_are_coloured_by_each_value(value):
    app = open_page("tokens", text=TEXT, token_value=value)
    check_page(app, "tokens")
    (strip,) = [body for body in bodies(app) if 'class="chips"' in body and "<button" in body]
    assert strip.count("<button") == 13
    assert strip.count("aria-current=true") == 1
    assert ("next: " in strip) == (value != "none")


def test_a_chip_shows_the_models_own_surprisal_and_what_was_expected(story):
    app = open_page("tokens", text=TEXT, token_value="surprisal")
    (strip,) = [body for body in bodies(app) if "surprisal: " in body]
    trace = story.run(TEXT)
    logits = trace.logits_at(3).astype(float)
    shares = np.exp(logits - logits.max())
    bits = -np.log2(shares[trace.tokens.ids[4]] / shares.sum())
    (title,) = re.findall(r'title="(position 4 .*?)"', strip, re.DOTALL)
    assert f"surprisal: {bits:.2f} bits" in title


def test_a_part_of_a_character_names_the_character():
    told = chips.about(gpt2_tokenizer().encode("a 犬 b"))
    assert [line.partition("part of ")[2] for line in told] == ["", "犬", "犬", "犬", ""]


def test_a_new_window_keeps_what_the_user_was_told(monkeypatch):
    monkeypatch.setattr(
        st, "session_state", {"_notices": ["The link asks for too much."], "_window": state.USUAL_WINDOW}
    )
    assert state.take_notices() == ["The link asks for too much."]
    assert state.take_notices() == []
    monkeypatch.setattr(
        st, "session_state", {"_notices": ["The link asks for too much."], "_window": state.USUAL_WINDOW}
    )
    state.take_notices()
    state.put_window([700, 900, 0])
    assert state.take_notices() == ["The link asks for too much."]
