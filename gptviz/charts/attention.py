"""One attention head as a heat map, and as lines between two columns of tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from .axes import cells, length_of, shortened, token_squares, width_of
from .theme import LIGHT, Theme, colorbar, figure, labels, plotted

_LEVELS = 5  # line widths: one Plotly trace per level, however many lines there are
_MOST_NAMES = 0.36  # share of the chart's width that the names may take on each side
_FAINTEST = 0.02  # a weight below this draws no line


def attention_map(
    pattern: NDArray[np.floating],
    strings: Sequence[str],
    *,
    chosen: int | None = None,
    what: str = "attention weight",
    highest: float = 1.0,
    pooled: int = 1,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Heat map of a head's weights: queries down, keys across, row 0 on top; colours from 0 to `highest`, future grey.

    `pattern` is [query, key], and `strings` has one per token. The row and the column of the `chosen`
    position are framed. `what` names the numbers if they are not weights. If `pooled` x `pooled` tokens
    share a cell (see `gptviz.numerics.tiles`), `pattern` has one row and column per `pooled` tokens.
    """
    n_tokens, n_cells = len(strings), len(pattern)
    place = token_squares(strings, theme, across="key: looked at", down="query: looking", pooled=pooled)
    future = np.triu(np.ones((n_cells, n_cells), dtype=bool), k=1)
    first_centre = (pooled - 1) / 2
    return figure(
        plotted(
            "heatmap",
            z=np.where(future, np.nan, pattern).astype(np.float32),
            x0=first_centre,
            dx=pooled,
            y0=first_centre,
            dy=pooled,
            zmin=0,
            zmax=highest,
            colorscale=theme.sequential,
            hoverongaps=False,
            xgap=1 if n_tokens <= 64 else 0,
            ygap=1 if n_tokens <= 64 else 0,
            colorbar=colorbar(what, theme, length=length_of(place)),
            hovertemplate=f"query <b>%{{y}}</b><br>key <b>%{{x}}</b><br>{what} <b>%{{z:.4f}}</b><extra></extra>",
        ),
        theme,
        **place,
        **cells("row", n_tokens, n_tokens),
        plot_bgcolor=theme.future,
        shapes=[] if chosen is None else _row_and_column(chosen, n_tokens, theme),
    )


def attention_lines(
    pattern: NDArray[np.floating],
    strings: Sequence[str],
    *,
    chosen: int | None = None,
    first: int = 0,
    theme: Theme = LIGHT,
) -> go.Figure:
    """A head's weights as lines from the query (left) to the key (right); wider means more weight.

    `pattern` is [query, key] and `strings` has one per token, of a text or of a window that begins at
    position `first`. With a `chosen` position, the lines to what it attends to and from what attends to it
    are coloured, and the others are faint. Tokens are selectable points with their position as customdata.
    """
    n_tokens = len(strings)
    names, beside = _names(strings, theme)
    traces = []
    queries, keys = np.nonzero(np.asarray(pattern) >= _FAINTEST)
    local = None if chosen is None else chosen - first
    for color, opacity, picked in _groups(queries, keys, local, theme):
        for width, level in _levels(np.asarray(pattern)[queries[picked], keys[picked]]):
            traces.append(_segments(queries[picked][level], keys[picked][level], color, opacity, width))
    for x, side, anchor in ((0.0, "query", "middle left"), (1.0, "key", "middle right")):
        traces.append(_column(names, x, anchor, side, first, local, theme))
    return figure(
        traces,
        theme,
        height=theme.scaled(max(220, 60 + 27 * n_tokens)),
        left=5,
        right=5,
        top=theme.scaled(35),
        bottom=5,
        xaxis={
            "range": [-beside, 1 + beside],
            "showgrid": False,
            "showline": False,
            "zeroline": False,
            "tickvals": [0, 1],
            "ticktext": ["query", "key"],
            "side": "top",
            "fixedrange": True,
        },
        yaxis={"range": [n_tokens - 0.4, -0.6], "visible": False, "fixedrange": True},
        dragmode=False,
        **cells("row", 2, n_tokens, first=first),
    )


def _names(strings: Sequence[str], theme: Theme) -> tuple[list[str], float]:
    """The names beside the lines, and the room that they need on each side, as a share of the lines' width."""
    across = theme.width - 10
    names = shortened(strings, _MOST_NAMES * across - 14, theme)
    needed = min(max(width_of(name, theme) for name in names) + 14, _MOST_NAMES * across)
    return names, needed / (across - 2 * needed)


def _row_and_column(chosen: int, n_tokens: int, theme: Theme) -> list[dict[str, object]]:
    """Frames around the chosen token's row and column."""
    return [
        {"type": "rect", "line": {"color": color, "width": 2.5}, **box}
        for color, box in (
            (theme.accent, {"x0": -0.5, "x1": chosen + 0.5, "y0": chosen - 0.5, "y1": chosen + 0.5}),
            (theme.second, {"x0": chosen - 0.5, "x1": chosen + 0.5, "y0": chosen - 0.5, "y1": n_tokens - 0.5}),
        )
    ]


def _groups(
    queries: NDArray[np.intp], keys: NDArray[np.intp], chosen: int | None, theme: Theme
) -> list[tuple[str, float, NDArray[np.bool_]]]:
    """(colour, opacity, mask of lines), the faint lines first so that the coloured lines are drawn on top."""
    if chosen is None:
        return [(theme.main, 0.75, np.ones(len(queries), dtype=bool))]
    looks, looked_at = queries == chosen, (keys == chosen) & (queries != chosen)
    return [(theme.muted, 0.18, ~looks & ~looked_at), (theme.second, 0.9, looked_at), (theme.accent, 0.95, looks)]


def _levels(weights: NDArray[np.floating]) -> list[tuple[float, NDArray[np.bool_]]]:
    """(line width, mask of lines) for each level of weight that occurs."""
    level = np.minimum((np.clip(weights, 0, 1) * _LEVELS).astype(int), _LEVELS - 1)
    return [(0.6 + 8.0 * (number + 0.5) / _LEVELS, level == number) for number in np.unique(level)]


def _segments(
    queries: NDArray[np.intp], keys: NDArray[np.intp], color: str, opacity: float, width: float
) -> dict[str, Any]:
    """Many lines as one Plotly trace, separated by NaN."""
    n_lines = len(queries)
    return plotted(
        "scatter",
        x=np.tile([0.0, 1.0, np.nan], n_lines),
        y=np.column_stack((queries, keys, np.full(n_lines, np.nan))).ravel(),
        mode="lines",
        line={"color": color, "width": width},
        opacity=opacity,
        hoverinfo="skip",
    )


def _column(
    strings: Sequence[str], x: float, anchor: str, side: str, first: int, chosen: int | None, theme: Theme
) -> dict[str, Any]:
    n_tokens = len(strings)
    colors = [theme.accent if position == chosen else theme.text for position in range(n_tokens)]
    return plotted(
        "scatter",
        x=np.full(n_tokens, x),
        y=np.arange(n_tokens),
        mode="markers+text",
        text=labels(strings),
        textposition=anchor,
        textfont={"size": theme.font_size, "color": colors},
        marker={"size": 9, "color": colors},
        customdata=np.arange(first, first + n_tokens),
        hovertemplate=f"{side} <b>%{{text}}</b>, position %{{customdata}}<br>click to choose<extra></extra>",
    )
