"""Charts of predictions: the most probable next tokens, and how well each token was predicted."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from .axes import cells, named_axis, room, token_axis, width_of
from .theme import LIGHT, Theme, figure, labels, plotted, span


def next_token_bars(table: pd.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """The most probable next tokens, one bar each, the most probable on top.

    `table` has one row per token: token (string to show), id, logit, probability (the model's own, at
    temperature 1), and optionally drawn (the probability of drawing the token, after temperature, top-k and
    top-p). Bars show drawn, and a tick marks probability. Without drawn, as in `Trace.top_k`, bars show probability.
    """
    if "drawn" not in table:
        table = table.assign(drawn=table["probability"])
    names = labels(table["token"].tolist())
    details = np.column_stack((table["id"], table["logit"], table["probability"]))
    hover = (
        "<b>%{text}</b> (id %{customdata[0]})<br>drawn with %{x:.4f}<br>"
        "model's own probability %{customdata[2]:.4f}<br>logit %{customdata[1]:.4f}<extra></extra>"
    )
    positions = np.arange(len(table))
    highest = max(table["drawn"].max(), table["probability"].max())
    left, height = room(table["token"].tolist(), theme), theme.scaled(60 + 34 * max(3, len(table)))
    across = theme.width - left - width_of("100.0%", theme) - 20
    return figure(
        [
            plotted(
                "bar",
                x=table["drawn"].to_numpy(),
                y=positions,
                orientation="h",
                marker={"color": theme.main},
                text=names,
                customdata=details,
                hovertemplate=hover,
                textposition="none",
            ),
            plotted(
                "scatter",
                x=table["probability"].to_numpy(),
                y=positions,
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 20, "color": theme.accent, "line": {"width": 3}},
                hoverinfo="skip",
            ),
        ],
        theme,
        height=height,
        left=left,
        xaxis={
            "range": [0, highest * (theme.width - left) / max(across, 1)],  # with room for the numbers behind the bars
            "tickformat": ".0%",
            "title": "probability",
            "nticks": 6,
        },
        yaxis=named_axis(table["token"].tolist(), theme, min(height, theme.height) - theme.above_and_below)
        | {"range": [len(table) - 0.5, -0.5], "ticksuffix": " "},
        bargap=0.25,
        annotations=[
            {
                "x": max(drawn, table["probability"].iloc[position]),
                "y": position,
                "text": f"{drawn:.1%}" if drawn else "cut",
                "showarrow": False,
                "xanchor": "left",
                "xshift": 10,
                "font": {"color": theme.text if drawn else theme.muted},
            }
            for position, drawn in enumerate(table["drawn"])
        ],
    )


def surprisal_bars(
    strings: Sequence[str],
    bits: NDArray[np.floating],
    *,
    chosen: int | None = None,
    beside: Sequence[NDArray[np.floating]] = (),
    theme: Theme = LIGHT,
) -> go.Figure:
    """Surprisal of each token, given those before it: minus log2 of its probability.

    `strings` and `bits` have one entry per position; the first token was not predicted (NaN). The axis
    also covers the bits of the charts `beside` this one, so that equal bars mean equal surprisal.
    """
    positions = np.arange(len(strings))
    colors = [theme.accent if position == chosen else theme.main for position in positions]
    return figure(
        plotted(
            "bar",
            x=positions,
            y=bits,
            marker={"color": colors},
            customdata=np.exp2(-np.asarray(bits, dtype=float)),
            hovertemplate="<b>%{x}</b><br>surprisal %{y:.2f} bits<br>probability %{customdata:.4f}<extra></extra>",
        ),
        theme,
        height=theme.scaled(280),
        bottom=room(strings, theme, slanted=True),
        xaxis=token_axis(strings, theme, theme.width - theme.beside, slanted=True),
        yaxis={"title": "surprisal (bits)", "range": span(bits, *beside, from_zero=True)},
        bargap=0.15,
        **cells("column", len(strings), 1),
    )
