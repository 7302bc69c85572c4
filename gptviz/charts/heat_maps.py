"""Heat maps of numbers per token: activations over dimensions, similarities, and layer by position."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from .theme import FONT_SIZE, LIGHT, Theme, color_scale, colorbar, escaped, figure, largest, plotted, room, token_axis

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
    return figure(
        plotted(
            "heatmap",
            z=values,
            zmid=0,
            **_limits(values),
            colorscale=theme.diverging,
            colorbar=colorbar(what),
            hovertemplate=f"<b>%{{y}}</b><br>{across} <b>%{{x}}</b><br>{what} <b>%{{z:.5f}}</b><extra></extra>",
        ),
        theme,
        height=_height(len(strings)),
        left=room(strings),
        xaxis={
            "title": across,
            "showgrid": False,
            "zeroline": False,
            "nticks": 12,
            "range": [-0.5, values.shape[1] - 0.5],
        },
        yaxis=token_axis(strings) | {"range": [len(strings) - 0.5, -0.5]},
        shapes=[] if chosen is None else [_frame(chosen, values.shape[1], theme)],
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
    return figure(
        plotted(
            "heatmap",
            z=values,
            zmid=0,
            zmin=-end,
            zmax=end,
            colorscale=theme.diverging,
            hoverongaps=False,
            colorbar=colorbar(what),
            hovertemplate=f"<b>%{{y}}</b><br><b>%{{x}}</b><br>{what} <b>%{{z:.4f}}</b><extra></extra>",
        ),
        theme,
        height=_height(len(strings)) + 60,
        left=room(strings, title=bool(down)),
        top=room(strings, title=bool(across), slanted=True),
        bottom=10,
        xaxis=token_axis(strings) | {"side": "top", "tickangle": -60, "title": across},
        yaxis=token_axis(strings) | {"range": [len(strings) - 0.5, -0.5], "title": down},
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
    theme: Theme = LIGHT,
) -> go.Figure:
    """Heat map with one row per depth, the deepest on top as the data flows upwards, and one column per token.

    `values` is [depth, pos], `rows` names the depths and `strings` the columns. `text` [depth, pos]
    is written into the cells, and `hover` [depth, pos] is shown on hover; both are data, not markup.
    """
    values = np.asarray(values, dtype=np.float32)
    told = np.full(values.shape, "") if hover is None else hover
    return figure(
        plotted(
            "heatmap",
            z=values,
            **color_scale(what, theme, signed=signed, limits=limits),
            xgap=1,
            ygap=1,
            text=None if text is None or values.size > _MAX_TEXT_CELLS else _escaped(text),
            texttemplate=None if text is None or values.size > _MAX_TEXT_CELLS else "%{text}",
            textfont={"size": FONT_SIZE - 2},
            customdata=_escaped(told),
            hovertemplate=f"<b>%{{x}}</b><br>%{{y}}<br>{what} <b>%{{z:{format}}}</b><br>%{{customdata}}<extra></extra>",
        ),
        theme,
        height=max(260, 110 + 26 * len(rows)),
        left=room(rows),
        bottom=room(strings, slanted=True),
        xaxis=token_axis(strings) | {"tickangle": -60},
        yaxis={
            "tickvals": list(range(len(rows))),
            "ticktext": list(rows),
            "range": [-0.5, len(rows) - 0.5],
            "showgrid": False,
        },
    )


def _escaped(strings: NDArray[np.str_]) -> list[list[str]]:
    """The strings, escaped. Newlines in the data become `<br>`, which is what Plotly expects."""
    return [[escaped(cell).replace("\n", "<br>") for cell in row] for row in strings.tolist()]


def _limits(values: NDArray[np.floating]) -> dict[str, float]:
    end = largest(values, 99.5)
    return {"zmin": -end, "zmax": end}


def _height(n_tokens: int) -> int:
    return int(np.clip(120 + 24 * n_tokens, 240, 720))


def _frame(chosen: int, n_columns: int, theme: Theme) -> dict[str, object]:
    return {
        "type": "rect",
        "x0": -0.5,
        "x1": n_columns - 0.5,
        "y0": chosen - 0.5,
        "y1": chosen + 0.5,
        "line": {"color": theme.accent, "width": 2.5},
    }
