"""Residual stream: what each part adds to it, what it would say at every depth, and which part wrote a logit."""

import numpy as np
import pandas as pd
import streamlit as st

from gptviz import charts
from gptviz.analysis.logit_attribution import attribute_logit
from gptviz.analysis.logit_lens import follow, logit_lens, stream_points
from gptviz.analysis.stream import added_to_stream
from gptviz.ui import look, shared, state, widgets

WINDOW = 24  # positions that the lens shows: each cell costs an output head, and must be read

view = shared.begin(
    "Residual stream",
    "Every token has one vector that runs through the whole model, the **residual stream**. Each attention and each "
    "feed-forward network (MLP) reads it and adds to it; at the end it is the prediction.",
)
trace = view.trace()
strings = view.tokens.strings
points = stream_points(view.engine.config["n_layers"])
depths = [point.label for point in points]


@st.fragment
def show_stream() -> None:
    """The stream's length at every depth, and what each part adds: how much, and in which direction."""
    st.subheader("How long the stream's vectors are")
    added = added_to_stream(trace)
    look.chart(
        charts.depth_map(added.norms_of_stream, depths, strings, what="length", theme=look.theme(), format=".2f"),
        key="stream-norms",
        alt="The length of every token's vector, from the embeddings at the bottom to the last block on top.",
    )
    st.subheader("What each attention and MLP adds")
    length_column, direction_column = st.columns(2)
    with length_column:
        st.markdown("**Its length**")
        look.chart(
            charts.depth_map(added.norms, depths[1:], strings, what="length", theme=look.theme(), format=".2f"),
            key="added-norms",
            alt="The length of what each attention and MLP adds to each token.",
        )
    with direction_column:
        st.markdown("**Its cosine with the stream before:** above 0 it confirms, below 0 it takes back")
        look.chart(
            charts.depth_map(
                added.cosines, depths[1:], strings, what="cosine", signed=True, limits=(-1, 1), theme=look.theme()
            ),
            key="added-cosines",
            alt="The cosine between what each part adds and the stream that it adds to.",
        )


@st.fragment
def show_lens() -> None:
    """The logit lens as a grid, and tokens followed over the depth."""
    st.subheader("Logit lens: what would it say if it stopped here?")
    st.markdown(
        "The stream at every depth, after attention and after the MLP, goes through the final norm and the output "
        "head. The top row is the model's own prediction."
    )
    chosen = widgets.position(st.container(), strings)
    first = max(0, min(chosen - WINDOW // 2, len(strings) - WINDOW))
    window = slice(first, first + WINDOW)
    with st.spinner("Reading the stream at every depth…"):
        grid = view.model.result(view.tokens, ("lens", first), lambda: logit_lens(trace, positions=window))
    look.chart(
        charts.lens_map(grid.probabilities, grid.strings, grid.labels, strings[window], theme=look.theme()),
        key="lens",
        alt="The most probable next token at every depth and position, coloured by its probability.",
    )
    if len(strings) > WINDOW:
        st.caption(f"Positions {first} to {first + WINDOW - 1}: choose another token to see the rest.")
    show_followed(chosen)
    shared.finish()


def show_followed(chosen: int) -> None:
    """Rank and probability, over the depth, of the tokens that are on top somewhere."""
    st.markdown(f"**After {look.code(strings[chosen])}: the tokens on top at any depth, followed through all**")
    table = follow(trace, chosen)
    shown = list(dict.fromkeys(table["id"]))[:8]
    rank_column, probability_column = st.columns(2)
    for column, what in ((probability_column, "probability"), (rank_column, "rank")):
        series = {
            f"{row['token'].iloc[0]} ({id})": row[what].to_numpy()
            for id, row in table[table["id"].isin(shown)].groupby("id", sort=False)
        }
        with column:
            look.chart(
                charts.depth_lines(
                    series, depths, what=what, logarithmic=what == "rank", downwards=what == "rank", theme=look.theme()
                ),
                key=f"followed-{what}",
                alt=f"The {what} of each token that is on top at some depth, over the depth.",
            )


@st.fragment
def show_attribution() -> None:
    """Which part of the model wrote a token's logit."""
    st.subheader("Direct logit attribution: who wrote this logit?")
    position_column, target_column, against_column = st.columns(3)
    chosen = widgets.position(position_column, strings, "After token", key="attribution-position")
    best = int(trace.logits_at(chosen).argmax())
    token = widgets.token(target_column, state.TARGET, "Logit of", best, placeholder="the most probable token")
    against = widgets.token(
        against_column, state.AGAINST, "minus the logit of", None, placeholder="nothing",
        help="A second token, for a difference.",
    )  # fmt: skip
    table = attribute_logit(trace, chosen, token, against)
    show_sum(table, chosen, token, against)

    layers = view.engine.config["n_layers"]
    heads = table[table["kind"] == "head"].pivot_table(index="layer", columns="head", values="contribution")
    mlps = table[table["kind"] == "mlp"]["contribution"].to_numpy()[:, None]
    columns = [f"head {number}" for number in heads.columns] + ["MLP"]
    look.chart(
        charts.depth_map(
            np.hstack((heads.to_numpy(), mlps)), [f"layer {layer}" for layer in range(layers)], columns,
            what="logits", signed=True, theme=look.theme(),
        ),
        key="attribution",
        alt="The contribution of every head and MLP to the logit.",
    )  # fmt: skip
    widgets.folded("Every part", lambda: st.dataframe(table, hide_index=True))
    shared.finish()


def show_sum(table: pd.DataFrame, chosen: int, token: int, against: int | None) -> None:
    """The sum by kind, held against the model's own logit."""
    logits = trace.logits_at(chosen).astype(np.float64)
    own = logits[token] - (0 if against is None else logits[against])
    total = table["contribution"].sum()
    names = view.engine.tokenizer.tokens([token] if against is None else [token, against]).strings
    what = " minus ".join(look.code(name) for name in names)
    agrees = abs(total - own) < 1e-3
    st.markdown(f"Parts for {what} after {look.code(strings[chosen])}, in logits:")
    st.badge(
        f"Sum of all parts {total:.4f}, the model's own {own:.4f}: difference {abs(total - own):.1e}",
        icon=":material/check_circle:" if agrees else ":material/error:",
        color="green" if agrees else "red",
    )
    kinds = {
        "embed": "token embedding", "pos_embed": "positional embedding", "head": "all heads",
        "attention_bias": "attention biases", "mlp": "all MLPs", "norm_shift": "final norm's bias",
    }  # fmt: skip
    sums = table.groupby("kind")["contribution"].sum()
    look.chart(
        charts.value_bars(
            np.array([sums[kind] for kind in kinds]), list(kinds.values()), what="logits", horizontal=True,
            theme=look.theme(),
        ),
        key="attribution-kinds",
        alt="The logit shared out among embeddings, heads, biases and MLPs.",
    )  # fmt: skip


show_stream()
show_lens()
show_attribution()
