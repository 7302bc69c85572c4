"""Glossary: the field's words, each with its formula, its source and the page that shows it."""

from functools import partial

import streamlit as st

from gptviz.ui import settings, state, widgets
from gptviz.ui.fragments import fragment
from gptviz.ui.glossary import LETTERS, Term, find
from gptviz.ui.markdown import code
from gptviz.ui.page import About, name_tab, open_page
from gptviz.ui.view import View

LONGEST_QUOTED = 40  # characters of what was looked for

ABOUT = About(
    "Glossary",
    "Glossary",
    "What the words on these pages mean. **Open a word** for its formula, where it comes from, and the page that shows "
    "it.",
    shows_numbers=False,
    uses_text=False,
)


def show(_view: View) -> None:
    """Draw the page."""
    show_terms()


@fragment
def show_terms() -> None:
    """Draw the search field, and the terms that it finds."""
    words = widgets.entry(
        st.text_input,
        settings.TERM,
        "Find a word",
        placeholder="such as: logit lens",
        help="A name, or words of a definition. Empty: all of them.",
    )
    terms = find(words)
    if not terms:
        show_nothing_found(words)
        return
    st.caption(LETTERS)
    asked_for = terms[0] if len(terms) == 1 or terms[0].is_called(words) else None
    name_tab(ABOUT, asked_for.name if asked_for else "")
    if asked_for is not None:
        show_unfolded(asked_for)
    for term in terms:
        if term is not asked_for:
            widgets.folded(f"**{term.name}.** {term.definition}", partial(show_details, term))


def show_nothing_found(words: str) -> None:
    """Say that no term has these words, and offer all terms."""
    line = " ".join(words.split())
    quoted = line if len(line) <= LONGEST_QUOTED else f"{line[:LONGEST_QUOTED]}…"
    st.info(f"The glossary has no {code(quoted)}: look for another word, or see all of them.", icon=":material/search:")
    st.button("Show all words", on_click=state.put, args=(settings.TERM, ""), key="all-terms", type="primary")


def show_unfolded(term: Term) -> None:
    """Show the one term that was asked for."""
    with st.container(border=True):
        st.header(term.name)
        st.markdown(term.definition)
        show_details(term)


def show_details(term: Term) -> None:
    """Show a term's formula and source, and the button that opens its page."""
    if term.formula:
        st.latex(term.formula)
    if term.source:
        st.caption(term.source)
    if term.page and st.button(
        f"Open {state.pages()[term.page].title}", icon=":material/arrow_forward:", key=f"open-page-of {term.name}"
    ):
        open_page(term.page)
