"""Tokens: how the text is cut, and how byte-pair encoding got there."""

import pandas as pd
import streamlit as st

from gptviz.ui import look, settings, shared, state, widgets

LONGEST_WORD = 256  # bytes: the work grows with the square

view = shared.begin(
    "Tokens",
    "The model does not read letters: the text is cut into **tokens**, each with an **id** from 0 to 50,256. "
    "`␣` is a space, `↵` a new line; a character outside of English may need several tokens.",
    numbers=False,
)
tokens = view.tokens
look.token_strip(tokens)

text = tokens.text
n_bytes = sum(len(raw) for raw in tokens.bytes)
for column, (label, value, explanation) in zip(
    st.columns(4),
    (
        ("Tokens", f"{len(tokens):,}", "What the model counts in."),
        ("Different tokens", f"{len(set(tokens.ids)):,}", "Ids that occur at least once."),
        ("Characters", f"{len(text):,}", "Unicode characters of the text shown."),
        ("Bytes per token", f"{n_bytes / len(tokens):.2f}", "UTF-8 bytes; English text has about 4."),
    ),
    strict=True,
):
    column.metric(label, value, help=explanation, border=True)

st.subheader("Every token")
st.dataframe(
    pd.DataFrame(
        {
            "position": range(len(tokens)),
            "token": tokens.strings,
            "id": tokens.ids,
            "bytes": [raw.hex(" ") for raw in tokens.bytes],
        }
    ),
    hide_index=True,
    height=min(38 * (len(tokens) + 1), 420),
)


@shared.fragment
def show_merges() -> None:
    """One word's way from bytes to tokens, merge by merge."""
    tokenizer = view.engine.tokenizer
    n_bytes = {word: len(word.encode(errors="replace")) for word in tokenizer.words(text)}
    words = [word for word, size in n_bytes.items() if 1 < size <= LONGEST_WORD]
    if max(n_bytes.values()) > LONGEST_WORD:
        st.caption(f"Words of more than {LONGEST_WORD} bytes are not taken apart here.")
    if not words:
        st.caption("No word of this text has more than one byte, so there is nothing to merge.")
        return
    state.within(settings.WORD, 0, len(words) - 1)
    word_column, step_column = st.columns(2)
    number = widgets.selectbox(
        word_column, settings.WORD, "Word", range(len(words)), format_func=lambda index: repr(words[index])[1:-1],
        key=state.key_for(settings.WORD.name, tuple(words)),
    )  # fmt: skip
    merges = tokenizer.merges(words[number])
    step = (
        step_column.slider("Merges done", 0, len(merges) - 1, len(merges) - 1, key=f"merges of {words[number]}")
        if len(merges) > 1
        else 0
    )
    merge = merges[step]
    look.pieces(merge.pieces)
    if merge.rank is None:
        st.caption(f"{len(merge.pieces)} bytes, before any merge.")
    else:
        st.caption(
            f"Merge {step} of {len(merges) - 1}: of all neighbours that may be merged, the pair that GPT-2's "
            f"training learned earliest goes first; this one makes the token with id {merge.rank:,}."
        )


st.subheader("Byte-pair encoding, merge by merge")
show_merges()
