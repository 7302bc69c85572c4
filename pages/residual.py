"""Residual stream: what each part adds to it, what it would say at every depth, and which part wrote a logit."""

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from gptviz import charts
from gptviz.analysis.logit_attribution import attribute_logit
from gptviz.analysis.logit_lens import follow, logit_lens, stream_points
from gptviz.analysis.stream import added_to_stream
from gptviz.ui import settings, widgets
from gptviz.ui.fragments import fragment
from gptviz.ui.markdown import code
from gptviz.ui.page import About
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.tables import verdict
from gptviz.ui.view import View

WINDOW = 24  # positions that the lens shows: each cell costs one run of the output head, and must stay readable
FOLLOWED = 8  # the most tokens that are followed over the depth
KINDS = {
    "embed": "token embedding",
    "pos_embed": "positional embedding",
    "head": "all heads",
    "attention_bias": "attention biases",
    "mlp": "all MLPs",
    "norm_shift": "final norm's bias",
}

ABOUT = About(
    "Residual stream",
    "Residual stream",
    "Every token has one vector that runs through the whole model, the **residual stream**. Each attention and each "
    "feed-forward network (MLP) reads it and adds to it; at the end it is the prediction.",
)


def show(view: View) -> None:
    """Draw the page."""
    show_lens(view)
    show_attribution(view)
    show_stream(view)


def depths(view: View) -> list[str]:
    """Return the names of the points on the stream, from the embeddings to the last layer."""
    return [point.label for point in stream_points(view.config["n_layers"])]


# --- what each part adds -----------------------------------------------------------------------


@fragment
def show_stream(view: View) -> None:
    """Show the stream's length at every depth, and what each part adds: how much, and in which direction."""
    st.header("How long the stream's vectors are")
    show_picture(stream_norms, view)
    st.header("What each attention and MLP adds")
    length_column, direction_column = st.columns(2)
    with length_column:
        st.markdown("**Its length**")
        show_picture(added_norms, view, across=1 / 2)
    with direction_column:
        st.markdown("**Its cosine similarity with the stream before:** above 0 it confirms, below 0 it takes back")
        show_picture(added_cosines, view, across=1 / 2)


@picture("stream-norms", "Length of the residual stream")
def stream_norms(view: View) -> Chart:
    """The length of every token's vector at every depth."""
    added = added_to_stream(view.trace())
    return Chart(
        partial(charts.depth_map, added.norms_of_stream, depths(view), view.strings, what="length", format=".2f"),
        "The length of every token's vector, from the embeddings at the bottom to the last layer on top.",
    )


@picture("added-norms", "Length of what each part adds")
def added_norms(view: View) -> Chart:
    """The length of what each attention and MLP adds to each token."""
    added = added_to_stream(view.trace())
    return Chart(
        partial(charts.depth_map, added.norms, depths(view)[1:], view.strings, what="length", format=".2f"),
        "The length of what each attention and MLP adds to each token.",
    )


@picture("added-cosines", "Direction of what each part adds")
def added_cosines(view: View) -> Chart:
    """The cosine similarity between what each part adds and the stream before it."""
    added = added_to_stream(view.trace())
    return Chart(
        partial(
            charts.depth_map,
            added.cosines,
            depths(view)[1:],
            view.strings,
            what="cosine similarity",
            signed=True,
            limits=(-1, 1),
        ),
        "The cosine similarity between what each part adds and the stream that it adds to.",
    )


# --- the logit lens ----------------------------------------------------------------------------


@fragment
def show_lens(view: View) -> None:
    """Show the logit lens as a grid, and tokens followed over the depth."""
    st.header("Logit lens: what would it say if it stopped here?")
    st.markdown(
        "The stream at every depth, after attention and after the MLP, goes through the final norm and the output "
        "head. The top row is the model's own prediction."
    )
    token = widgets.position(st.container(), view.strings)
    with st.spinner("Reading the stream at every depth…"):
        show_picture(lens, view)
    if len(view.tokens) > WINDOW:
        window = lens_window(view, token)
        st.caption(f"Positions {window.start} to {window.stop - 1}: choose another token to see the rest.")
    st.markdown(f"**After {code(view.strings[token])}: the tokens on top at any depth, followed through all**")
    rank_column, probability_column = st.columns(2)
    with probability_column:
        show_picture(followed, view, variant="probability", across=1 / 2)
    with rank_column:
        show_picture(followed, view, variant="rank", across=1 / 2)


@picture("lens", "Logit lens", settings.TOKEN)
def lens(view: View, token: int) -> Chart:
    """The most probable next token at every depth and position."""
    window = lens_window(view, token)
    found = view.computed(logit_lens, view.trace(), positions=window)
    return Chart(
        partial(charts.lens_map, found.probabilities, found.strings, found.labels, view.strings[window]),
        "The most probable next token at every depth and position, coloured by its probability.",
    )


def lens_window(view: View, token: int) -> slice:
    """Return the positions that the lens shows, around the chosen one."""
    first = max(0, min(token - WINDOW // 2, len(view.tokens) - WINDOW))
    return slice(first, first + WINDOW)


@picture("followed", "Tokens followed over the depth", settings.TOKEN, variants=("probability", "rank"))
def followed(view: View, token: int, variant: str) -> Chart:
    """The rank or the probability, over the depth, of the tokens that are on top at some depth."""
    table = view.computed(follow, view.trace(), token)
    shown = list(dict.fromkeys(table["id"]))[:FOLLOWED]
    series = {
        f"{row['token'].iloc[0]} ({id})": row[variant].to_numpy()
        for id, row in table[table["id"].isin(shown)].groupby("id", sort=False)
    }
    is_rank = variant == "rank"
    return Chart(
        partial(charts.depth_lines, series, depths(view), what=variant, logarithmic=is_rank, downwards=is_rank),
        f"The {variant} of each token that is on top at some depth, over the depth.",
    )


# --- direct logit attribution ------------------------------------------------------------------


@fragment
def show_attribution(view: View) -> None:
    """Show which part of the model wrote a token's logit."""
    st.header("Direct logit attribution: who wrote this logit?")
    position_column, target_column, against_column = st.columns(3)
    position = widgets.position(position_column, view.strings, "After token", key="attribution-position")
    best = int(view.trace().logits_at(position).argmax())
    token = widgets.token(target_column, settings.TARGET, "Logit of", best, placeholder="the most probable token")
    against = widgets.token(
        against_column,
        settings.AGAINST,
        "minus the logit of",
        None,
        placeholder="nothing",
        help="A second token, for a difference.",
    )
    table = view.computed(attribute_logit, view.trace(), position, token, against)
    show_sum(view, table, position, token, against)
    show_picture(attribution_by_kind, view)
    show_picture(attribution, view)
    widgets.folded("Every part", lambda: st.dataframe(table, hide_index=True))


def attribution_table(view: View, position: int, target: str, against: str) -> pd.DataFrame:
    """Return the parts of the logit that two settings name: see `attribute_logit`."""
    trace = view.trace()
    token = widgets.first_token(target, int(trace.logits_at(position).argmax()))
    return view.computed(attribute_logit, trace, position, token, widgets.first_token(against, None))


def show_sum(view: View, table: pd.DataFrame, position: int, token: int, against: int | None) -> None:
    """Compare the sum of all parts with the model's own logit."""
    logits = view.trace().logits_at(position).astype(np.float64)
    own = logits[token] - (0 if against is None else logits[against])
    total = table["contribution"].sum()
    names = view.engine.tokenizer.tokens([token] if against is None else [token, against]).strings
    st.markdown(f"Parts for {' minus '.join(map(code, names))} after {code(view.strings[position])}, in logits:")
    difference = abs(total - own)
    verdict(difference < 1e-3, f"Sum of all parts {total:.4f}, the model's own {own:.4f}: difference {difference:.1e}")


@picture("attribution-kinds", "A logit by kind of part", settings.TOKEN, settings.TARGET, settings.AGAINST)
def attribution_by_kind(view: View, token: int, target: str, against: str) -> Chart:
    """The logit divided among embeddings, heads, biases and MLPs."""
    sums = attribution_table(view, token, target, against).groupby("kind")["contribution"].sum()
    values = np.array([sums[kind] for kind in KINDS])
    return Chart(
        partial(charts.value_bars, values, list(KINDS.values()), what="logits", horizontal=True),
        "The logit shared out among embeddings, heads, biases and MLPs.",
    )


@picture("attribution", "A logit by head and MLP", settings.TOKEN, settings.TARGET, settings.AGAINST)
def attribution(view: View, token: int, target: str, against: str) -> Chart:
    """The contribution of every head and MLP to the logit."""
    table = attribution_table(view, token, target, against)
    heads = table[table["kind"] == "head"].pivot_table(index="layer", columns="head", values="contribution")
    mlps = table[table["kind"] == "mlp"]["contribution"].to_numpy()[:, None]
    rows = [f"layer {layer}" for layer in range(view.config["n_layers"])]
    columns = [f"head {number}" for number in heads.columns] + ["MLP"]
    draw = partial(
        charts.depth_map,
        np.hstack((heads.to_numpy(), mlps)),
        rows,
        columns,
        what="logits",
        signed=True,
        click="head",
        n_heads=len(heads.columns),
    )
    return Chart(draw, "The contribution of every head and MLP to the logit.")
