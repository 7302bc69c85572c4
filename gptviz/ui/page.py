"""The frame of a page: its heading, its view, and the messages for when there is nothing to show."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from types import ModuleType

import streamlit as st
from streamlit.navigation.page import Page as StreamlitPage

from gptviz.analysis.finite import not_finite
from gptviz.tokens import END_OF_TEXT
from gptviz.trace import Trace
from gptviz.ui import models, settings, state, widgets
from gptviz.ui.links import with_terms
from gptviz.ui.markdown import html_of, plain
from gptviz.ui.settings import Size
from gptviz.ui.sidebar import choose_heads, chosen_model
from gptviz.ui.view import View

SIZES = {Size.NORMAL: "A", Size.LARGE: "A+", Size.STAGE: "Stage"}
EXAMPLE = "The little dog ran to the river. The little dog"


@dataclass(frozen=True)
class About:
    """The description of a page."""

    title: str  # in the menu
    heading: str
    explanation: str  # with `**bold**`, and `[[terms]]` of the glossary
    shows_numbers: bool = True  # from the model's run; a broken model's numbers are not shown
    uses_text: bool = True  # from the sidebar; otherwise the page has its own texts


def navigation(groups: Mapping[str, Sequence[ModuleType]]) -> StreamlitPage:
    """Draw the menu and return the page that the address names. The first module is the start page.

    Each module has an `ABOUT` and a function `show(view)`.
    """
    modules = [module for group in groups.values() for module in group]
    pages = {
        _name(module): st.Page(
            partial(_show, module), title=module.ABOUT.title, url_path=_name(module), default=module is modules[0]
        )
        for module in modules
    }
    state.set_pages(pages)
    table = {heading: [pages[_name(module)] for module in group] for heading, group in groups.items()}
    return st.navigation(table, position="top")


def open_page(name: str) -> None:
    """Go to another page and keep the settings."""
    st.switch_page(state.pages()[name])


def follow_link() -> None:
    """Open the page that a link led to. Call this after `navigation`."""
    if (name := state.take_wish()) is not None:
        open_page(name)


def name_tab(about: About, shown: str = "") -> None:
    """Name the browser's tab, and so its entry in the history: what the page shows, the page, and the app."""
    st.set_page_config(page_title=" · ".join(filter(None, (shown, about.title, "gptviz"))))


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def _show(module: ModuleType) -> None:
    name_tab(module.ABOUT)
    module.show(_begin(module.ABOUT))


def _show_heading(about: About) -> None:
    """Draw the heading in one row with the explanation, the way to the text, the size of everything, and the link."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="heading"):
        st.html(
            f'<div class="heading"><h1>{html_of(about.heading)}</h1><p>{with_terms(about.explanation)}</p></div>',
            width="stretch",
        )
        beginning = html.escape(shorten(state.get(settings.TEXT), 60, placeholder="…") or "no text yet")
        st.html(f'<button class="tool edit-text" title="Change the text">{beginning}</button>', width="content")
        widgets.choice(
            st.segmented_control, settings.SIZE, "Size of text and charts", SIZES, label_visibility="collapsed"
        )
        st.html('<button class="tool copy-link" title="Copy a link to this view">Copy link</button>', width="content")


def _begin(about: About) -> View:
    """Draw the heading and return the view. Ends the page if there is nothing to show."""
    _show_heading(about)
    view = _view(about.uses_text)
    if not about.uses_text:
        return view
    if about.shows_numbers:
        stop_if_broken(view.trace())
    elif (known := view.model.traces.peek(view.tokens.ids)) is not None:
        _tell_if_broken(known)
    return view


def stop_if_broken(trace: Trace) -> None:
    """End the page if the model's own run of a text has NaN or infinite numbers, which must not be drawn as if valid.

    This is not for a run with interventions: count that run's broken numbers with `not_finite` instead.
    """
    if _tell_if_broken(trace):
        st.stop()


def _tell_if_broken(trace: Trace) -> bool:
    table = not_finite(trace)  # not cached: it needs no turn, and a result per text would take memory
    broken = table[table["broken"] > 0]
    if broken.empty:
        return False
    first = broken.iloc[0]
    st.error(
        f"This model's numbers are broken: {first['broken']:,} of {first['values']:,} values {first['where']} are NaN "
        "or infinite, and so is what follows from them. Choose another model, or a checkpoint from before its training "
        "went wrong.",
        icon=":material/error:",
    )
    st.dataframe(table, hide_index=True)
    return True


def _view(uses_text: bool) -> View:
    model = chosen_model()
    n_heads = choose_heads(model)
    engine = models.loaded(model.engine.name, n_heads).engine
    for note in engine.notes:
        st.info(plain(note), icon=":material/info:")
    tokens = engine.tokenize(state.get(settings.TEXT), bos=state.get(settings.BOS))
    n_tokens, longest = len(tokens), engine.config["context_length"]
    if uses_text:
        _tell_about_text(n_tokens, longest)
    return View(engine.name, tokens[:longest], n_heads)


def _tell_about_text(n_tokens: int, longest: int) -> None:
    """Say which part of the text is left out. Ends the page if there is no text."""
    if state.too_long_for_link():
        st.caption("This text is too long for a link: the page's address leaves it out.")
    if state.text_left_out():
        st.warning(
            f"The text has {state.text_left_out():,} characters more than this app takes: the last ones are left out.",
            icon=":material/content_cut:",
        )
    if not n_tokens:
        st.info(f"There is no text yet. Type one on the left, or put `{END_OF_TEXT}` in front.", icon=":material/edit:")
        st.button("Show me an example", on_click=state.put, args=(settings.TEXT, EXAMPLE), type="primary")
        st.stop()
    if n_tokens > longest:
        st.warning(
            f"The text has {n_tokens:,} tokens, and this model takes {longest:,}: "
            f"the last {n_tokens - longest:,} are left out.",
            icon=":material/content_cut:",
        )
