"""Heat maps of numbers per token: activations over dimensions, similarities, and layer by position."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from .axes import cells, frame, length_of, named_axis, room, token_axis, token_squares, width_of
from .theme import LIGHT, Theme, color_scale, colorbar, escaped, figure, largest, plotted, room_for_colorbar

_MOST_FIT = 0.8  # share of the texts: with fewer, a map shows none
_MAX_TEXT_CELLS = 600  # most cells with text in them: more would be unreadable and slow to draw


def dimension_map(
    values: NDArray[np.floating],
    strings: Sequence[str],
    *,
    what: str = "value",
    across: str = "dimension",
    chosen: int | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Heat map of signed numbers, one row per token and one column per dimension; colours are centred on zero.

    `values` is [pos, dim], and `strings` has one per position; the `chosen` position is framed. Colours
    end at the 99.5th percentile of the absolute values, since single dimensions of GPT-2 are
    far larger than all others; hover shows the exact numbers.
    """
    values = np.asarray(values, dtype=np.float32)
    height = theme.scaled(np.clip(90 + 24 * len(strings), 200, 720))
    return figure(
        plotted(
            "heatmap",
            z=values,
            zmid=0,
            **_limits(values),
            colorscale=theme.diverging,
            colorbar=colorbar(what, theme),
            hovertemplate=f"<b>%{{y}}</b><br>{across} <b>%{{x}}</b><br>{what} <b>%{{z:.5f}}</b><extra></extra>",
        ),
        theme,
        height=height,
        left=room(strings, theme),
        right=room_for_colorbar(theme),
        xaxis={"title": across, "showgrid": False, "zeroline": False, "range": [-0.5, values.shape[1] - 0.5]},
        yaxis=token_axis(strings, theme, min(height, theme.height) - theme.above_and_below)
        | {"range": [len(strings) - 0.5, -0.5]},
        shapes=[] if chosen is None else [frame(-0.5, chosen - 0.5, values.shape[1], 1, theme.accent)],
        **cells("row", values.shape[1], len(strings)),
    )


def token_pair_map(
    values: NDArray[np.floating],
    strings: Sequence[str],
    *,
    what: str,
    limit: float | None = None,
    masked: bool = False,
    down: str = "",
    across: str = "",
    theme: Theme = LIGHT,
) -> go.Figure:
    """Heat map of signed numbers between every two tokens, such as cosines or scores; colours are centred on zero.

    `values` is [pos, pos]. `limit` is where the colours end (the largest absolute value if
    None). With `masked`, the cells above the diagonal, the future, are grey.
    """
    values = np.asarray(values, dtype=np.float32)
    if masked:
        values = np.where(np.tri(len(values), dtype=bool), values, np.nan)
    end = limit or largest(values)
    place = token_squares(strings, theme, across=across, down=down)
    return figure(
        plotted(
            "heatmap",
            z=values,
            zmid=0,
            zmin=-end,
            zmax=end,
            colorscale=theme.diverging,
            hoverongaps=False,
            colorbar=colorbar(what, theme, length=length_of(place)),
            hovertemplate=f"<b>%{{y}}</b><br><b>%{{x}}</b><br>{what} <b>%{{z:.4f}}</b><extra></extra>",
        ),
        theme,
        **place,
        **cells("row", len(strings), len(strings)),
        plot_bgcolor=theme.future,
    )


def depth_map(
    values: NDArray[np.floating],
    rows: Sequence[str],
    strings: Sequence[str],
    *,
    what: str,
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    text: NDArray[np.str_] | None = None,
    hover: NDArray[np.str_] | None = None,
    format: str = ".3f",
    click: str = "column",
    first: int = 0,
    n_heads: int | None = None,
    chosen: tuple[int, int] | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Heat map with one row per depth, the deepest on top as the data flows upwards, and one column per token.

    `values` is [depth, pos], `rows` names the depths and `strings` the columns. `text` [depth, pos]
    is written into the cells if they have room for it, and `hover` [depth, pos] is shown on hover; both are data, not
    markup. `click`, `first` and `n_heads` say what a cell stands for (see `cells` in `axes.py`). The cell
    `chosen`, (depth, column), is framed.
    """
    values = np.asarray(values, dtype=np.float32)
    told = np.full(values.shape, "") if hover is None else hover
    left, right, bottom = room(rows, theme), room_for_colorbar(theme), room(strings, theme, slanted=True)
    height = min(max(theme.scaled(26) * len(rows), theme.scaled(150)) + 10 + bottom, theme.height)
    across, down = theme.width - left - right, height - 10 - bottom
    shown = None if text is None else _that_fit(text, across / len(strings), down / len(rows), theme)
    return figure(
        plotted(
            "heatmap",
            z=values,
            **color_scale(what, theme, signed=signed, limits=limits),
            xgap=1,
            ygap=1,
            text=None if shown is None else _escaped(shown),
            texttemplate=None if shown is None else "%{text}",
            textfont={"size": theme.font_size},
            customdata=_escaped(told),
            hovertemplate=f"<b>%{{x}}</b><br>%{{y}}<br>{what} <b>%{{z:{format}}}</b><br>%{{customdata}}<extra></extra>",
        ),
        theme,
        height=height,
        left=left,
        right=right,
        bottom=bottom,
        xaxis=token_axis(strings, theme, across, slanted=True),
        yaxis=named_axis(rows, theme, down),
        shapes=[] if chosen is None else [frame(chosen[1] - 0.5, chosen[0] - 0.5, 1, 1, theme.accent)],
        **cells(click, len(strings), len(rows), first=first, n_heads=n_heads),
    )


def _that_fit(text: NDArray[np.str_], across: float, down: float, theme: Theme) -> NDArray[np.str_] | None:
    """Return the texts that fit into cells of this size in pixels, and "" for the others; None if most do not fit."""
    if text.size > _MAX_TEXT_CELLS or down < theme.font_size * 1.2:
        return None
    fits = np.array([width_of(string, theme) <= 0.9 * across for string in text.ravel().tolist()]).reshape(text.shape)
    return np.where(fits, text, "") if fits.mean() > _MOST_FIT else None


def _escaped(strings: NDArray[np.str_]) -> list[list[str]]:
    """The strings, escaped. Newlines in the data become `<br>`, which is what Plotly expects."""
    return [[escaped(cell).replace("\n", "<br>") for cell in row] for row in strings.tolist()]


def _limits(values: NDArray[np.floating]) -> dict[str, float]:
    end = largest(values, 99.5)
    return {"zmin": -end, "zmax": end}
