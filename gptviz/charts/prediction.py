"""Charts of predictions: the most probable next tokens, and how well each token was predicted."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from .theme import LIGHT, Theme, figure, labels, plotted, room, span, token_axis


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
        height=60 + 34 * max(3, len(table)),
        left=room(table["token"].tolist()),
        xaxis={"range": [0, min(1.12, highest * 1.18)], "tickformat": ".0%", "title": "probability"},
        yaxis={
            "tickvals": positions.tolist(),
            "ticktext": names,
            "range": [len(table) - 0.5, -0.5],
            "showgrid": False,
            "zeroline": False,
            "ticksuffix": " ",
        },
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
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
        ),
        theme,
        height=280,
        bottom=room(strings, slanted=True),
        xaxis=token_axis(strings) | {"tickangle": -60},
        yaxis={"title": "surprisal (bits)", "range": span(bits, *beside, from_zero=True)},
        bargap=0.15,
    )
