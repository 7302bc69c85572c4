"""Tokens: how the text is cut, and how byte-pair encoding got there."""

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from gptviz.analysis.logit_lens import logit_lens, stream_points
from gptviz.analysis.prediction import foreseen_token, prediction_table
from gptviz.experiments.token_attribution import gradient_times_input
from gptviz.tokens import Tokens
from gptviz.ui import chips, descriptions, settings, state, widgets
from gptviz.ui.fragments import fragment
from gptviz.ui.page import About, stop_if_broken
from gptviz.ui.settings import TokenValue
from gptviz.ui.view import View

VALUES = {  # name, explanation, format of the number
    TokenValue.NONE: ("nothing", "", ""),
    TokenValue.SURPRISAL: ("surprisal", "Strong: the model did not expect this token.", "{:.2f} bits"),
    TokenValue.PROBABILITY: ("probability", "Strong: the model expected this token.", "{:.2%}"),
    TokenValue.RANK: ("rank", "Strong: many tokens were more probable. The scale is logarithmic.", "{:,.0f}"),
    TokenValue.ATTENDS_TO: ("attention from the chosen token", "Strong: the head looks there.", "{:.3f}"),
    TokenValue.ATTENDED_BY: ("attention to the chosen token", "Strong: from there the head looks at it.", "{:.3f}"),
    TokenValue.SALIENCY: (
        "saliency (gradient × input)",
        "Strong: the prediction of what follows the chosen token rests on it. Orange: it speaks against.",
        "{:+.3f} nats",
    ),
}
LONGEST_WORD = 256  # bytes: the work grows with the square of the length

ABOUT = About(
    "Tokens",
    "Tokens",
    "The model does not read letters: the text is cut into [[tokens|Token]], each with an **id** from 0 to 50,256. "
    "`␣` is a space, `↵` a new line; a character outside of English may need several tokens.",
    shows_numbers=False,
)


def show(view: View) -> None:
    """Draw the page."""
    show_strip(view)
    show_counts(view.tokens)
    st.header("Every token")
    table = token_table(view.tokens)
    st.dataframe(table, hide_index=True, height=min(38 * (len(table) + 1), 420))
    st.header("Byte-pair encoding, merge by merge")
    show_merges(view)


# --- the tokens, coloured ----------------------------------------------------------------------


@fragment
def show_strip(view: View) -> None:
    """Draw the tokens as chips, coloured by a value of the user's choice."""
    value_column, token_column, layer_column, head_column = st.columns([3, 2, 1, 1])
    shown = widgets.selectbox(
        value_column, settings.TOKEN_VALUE, "Coloured by", list(VALUES), format_func=lambda value: VALUES[value][0]
    )
    token = widgets.position(token_column, view.strings)
    layer, head = 0, 0
    if shown in (TokenValue.ATTENDS_TO, TokenValue.ATTENDED_BY):
        layer, head = widgets.layer(layer_column, view), widgets.head(head_column, view)
    place, titles = st.empty(), chips.about(view.tokens)
    if shown == TokenValue.NONE:
        place.html(chips.shaded_strip(view.tokens, None, titles, token))
        return
    stop_if_broken(view.trace())
    with st.spinner("Computing the values…"):
        values = values_of(view, TokenValue(shown), token, layer, head)
    name, explanation, form = VALUES[TokenValue(shown)]
    titles = [
        f"{title}\n{name}: {form.format(value)}" if np.isfinite(value) else title
        for title, value in zip(titles, values.tolist(), strict=True)
    ]
    place.html(chips.shaded_strip(view.tokens, strength(TokenValue(shown), values), titles, token))
    st.caption(explanation)
    titles = [f"{title}\nnext: {line}" for title, line in zip(titles, expected_next(view), strict=True)]
    place.html(chips.shaded_strip(view.tokens, strength(TokenValue(shown), values), titles, token))


def expected_next(view: View) -> list[str]:
    """Return the most probable tokens after each position, which are the last row of the logit lens."""
    end = stream_points(view.config["n_layers"])[-1:]
    found = view.computed(logit_lens, view.trace(), points=end, measured=False)
    rows = zip(found.strings[0], found.probabilities[0], strict=True)
    return [", ".join(descriptions.valued(strings, shares, descriptions.percent)) for strings, shares in rows]


def values_of(view: View, shown: TokenValue, token: int, layer: int, head: int) -> NDArray[np.float64]:
    """Return the value of each token: [pos], NaN where there is none."""
    trace = view.trace()
    match shown:
        case TokenValue.ATTENDS_TO:
            row = trace["pattern", layer][head, token].astype(float)
            return np.where(np.arange(len(row)) <= token, row, np.nan)
        case TokenValue.ATTENDED_BY:
            column = trace["pattern", layer][head, :, token].astype(float)
            return np.where(np.arange(len(column)) >= token, column, np.nan)
        case TokenValue.SALIENCY:
            values = view.computed(gradient_times_input, trace, token, foreseen_token(trace, token))
            return np.where(np.arange(len(values)) <= token, values, np.nan)
    name = {TokenValue.SURPRISAL: "surprisal_bits", TokenValue.PROBABILITY: "probability", TokenValue.RANK: "rank"}[
        shown
    ]
    predicted = view.computed(prediction_table, trace)[name].to_numpy(dtype=float, na_value=np.nan)
    return np.append(np.nan, predicted[:-1])


def strength(shown: TokenValue, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how strongly each token is coloured: ranks on a logarithmic scale, other values as they are."""
    return np.log2(values) if shown == TokenValue.RANK else values


# --- counts and a table ------------------------------------------------------------------------


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
        then=partial(state.put, settings.MERGE, settings.MERGE.default),
    )
    merges = tokenizer.merges(words[number])
    last = len(merges) - 1
    step = widgets.steps_done(step_column, settings.MERGE, "Merges done", last) if last else 0
    chips.pieces(merges[step].pieces)
    rank = merges[step].rank
    if rank is None:
        st.caption(f"{len(merges[step].pieces)} bytes, before any merge.")
        return
    st.caption(
        f"Merge {step} of {last}: of all neighbours that may be merged, the pair that GPT-2's "
        f"training learned earliest goes first; this one makes the token with id {rank:,}."
    )
