"""Links between pages, and choices in charts: a click anywhere can set settings and open a page."""

import html
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from gptviz.interventions import Part
from gptviz.ui import settings, state
from gptviz.ui.assets import asset
from gptviz.ui.glossary import tooltip
from gptviz.ui.markdown import html_of
from gptviz.ui.settings import SETTINGS, Setting

_KEY = "links"
_SETTINGS = {setting.name: setting for setting in SETTINGS}


def listen() -> None:
    """Make links, and the cells of charts, work. Call this once in every run of the whole app."""
    component = st.components.v2.component("links", js=asset("cells.js"))
    component(key=_KEY, on_go_change=_go)


def link(text: str, page: str, chosen: Mapping[Setting[Any], Any] | None = None) -> str:
    """Return HTML for a link that opens a page of the app with some settings."""
    return f'<button class="link" {as_attributes(chosen or {}, page)}>{html.escape(text)}</button>'


def as_attributes(chosen: Mapping[Setting[Any], Any], page: str = "") -> str:
    """Return the attributes that make an HTML element a link: it sets some settings, and opens a page if named."""
    words = {setting.name: setting.kind.write(value) for setting, value in chosen.items()}
    return f'data-go="{html.escape(page)}" data-settings="{html.escape(urlencode(words))}"'


def head_link(layer: int, head: int) -> str:
    """Return HTML for a head's name, which opens the menu of what can be done with the head."""
    name = Part("head", layer, head)
    return f'<button class="link" aria-haspopup="menu" data-go="attention" data-head="{layer}-{head}">{name}</button>'


def with_terms(sentence: str) -> str:
    """Return one of our own sentences as HTML: see `html_of`. Its `[[terms]]` have tooltips and lead to the glossary.

    `[[keys|Key]]` stands for the term Key. Raises `KeyError` for an unknown term.
    """
    return re.sub(r"\[\[(.+?)(?:\|(.+?))?\]\]", _term, html_of(sentence))


def note(sentence: str) -> None:
    """Draw a sentence in small type, whose `[[terms]]` lead to the glossary: see `with_terms`."""
    st.html(f'<p class="note">{with_terms(sentence)}</p>')


def _term(found: re.Match[str]) -> str:
    words, name = found[1], found[2] or found[1][0].upper() + found[1][1:]
    about = html.escape(tooltip(name))
    return (
        f'<button class="link term" title="{about}" {as_attributes({settings.TERM: name}, "glossary")}>{words}</button>'
    )


def _go() -> None:
    """Do what the browser asks for, as far as it is valid: a browser may send anything."""
    target = state.told(_KEY, "go")
    if not isinstance(target, dict):
        return
    chosen = target.get("settings")
    for name, word in chosen.items() if isinstance(chosen, dict) else ():
        _put(str(name), str(word))
    for name, change in (("switch", state.switch), ("off", state.switch_off)):
        if settings.OFF.kind.takes([target.get(name)]):
            change(target[name])
    page = target.get("page")
    if isinstance(page, str) and page in state.pages():
        state.wish_for_page(page)


def _put(name: str, word: str) -> None:
    setting = _SETTINGS.get(name)
    if setting is None:
        return
    try:
        state.put(setting, setting.kind.read(word))
    except ValueError:
        return
