"""Tokens: how the text is cut, and how byte-pair encoding got there."""

import pandas as pd
import streamlit as st

from gptviz.tokens import Tokens
from gptviz.ui import chips, settings, state, widgets
from gptviz.ui.fragments import fragment
from gptviz.ui.page import About
from gptviz.ui.view import View

LONGEST_WORD = 256  # bytes: the work grows with the square of the length

ABOUT = About(
    "Tokens",
    "Tokens",
    "The model does not read letters: the text is cut into **tokens**, each with an **id** from 0 to 50,256. "
    "`␣` is a space, `↵` a new line; a character outside of English may need several tokens.",
    shows_numbers=False,
)


def show(view: View) -> None:
    """Draw the page."""
    chips.token_strip(view.tokens)
    show_counts(view.tokens)
    st.header("Every token")
    table = token_table(view.tokens)
    st.dataframe(table, hide_index=True, height=min(38 * (len(table) + 1), 420))
    st.header("Byte-pair encoding, merge by merge")
    show_merges(view)


def show_counts(tokens: Tokens) -> None:
    """Show how many tokens, characters and bytes the text has."""
    n_bytes = sum(len(raw) for raw in tokens.bytes)
    counts = (
        ("Tokens", f"{len(tokens):,}", "What the model counts in."),
        ("Different tokens", f"{len(set(tokens.ids)):,}", "Ids that occur at least once."),
        ("Characters", f"{len(tokens.text):,}", "Unicode characters of the text shown."),
        ("Bytes per token", f"{n_bytes / len(tokens):.2f}", "UTF-8 bytes; English text has about 4."),
    )
    for column, (label, value, explanation) in zip(st.columns(4), counts, strict=True):
        column.metric(label, value, help=explanation, border=True)


def token_table(tokens: Tokens) -> pd.DataFrame:
    """One row per position: position, token, id, bytes (in hexadecimal)."""
    return pd.DataFrame(
        {
            "position": range(len(tokens)),
            "token": tokens.strings,
            "id": tokens.ids,
            "bytes": [raw.hex(" ") for raw in tokens.bytes],
        }
    )


@fragment
def show_merges(view: View) -> None:
    """Show one word's way from bytes to tokens, merge by merge."""
    tokenizer = view.engine.tokenizer
    n_bytes = {word: len(word.encode(errors="replace")) for word in tokenizer.words(view.tokens.text)}
    words = [word for word, size in n_bytes.items() if 1 < size <= LONGEST_WORD]
    if max(n_bytes.values()) > LONGEST_WORD:
        st.caption(f"Words of more than {LONGEST_WORD} bytes are not taken apart here.")
    if not words:
        st.caption("No word of this text has more than one byte, so there is nothing to merge.")
        return
    state.within(settings.WORD, 0, len(words) - 1)
    word_column, step_column = st.columns(2)
    number = widgets.selectbox(
        word_column,
        settings.WORD,
        "Word",
        range(len(words)),
        format_func=lambda index: repr(words[index])[1:-1],
        key=state.key_for(settings.WORD.name, tuple(words)),
    )
    merges = tokenizer.merges(words[number])
    last = len(merges) - 1
    step = step_column.slider("Merges done", 0, last, last, key=f"merges of {words[number]}") if last else 0
    chips.pieces(merges[step].pieces)
    rank = merges[step].rank
    if rank is None:
        st.caption(f"{len(merges[step].pieces)} bytes, before any merge.")
        return
    st.caption(
        f"Merge {step} of {last}: of all neighbours that may be merged, the pair that GPT-2's "
        f"training learned earliest goes first; this one makes the token with id {rank:,}."
    )
