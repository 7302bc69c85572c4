"""Charts of vectors: lengths, principal components, and numbers over positions, dimensions and depth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..numerics import operations
from .axes import legend, named_axis, room, squares, token_axis, width_of
from .theme import LIGHT, Theme, colorbar, figure, labels, labels_in_3d, plotted, room_for_colorbar, span

_DASHES = ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot")


def token_lines(
    series: Mapping[str, NDArray[np.floating]], strings: Sequence[str], *, what: str, theme: Theme = LIGHT
) -> go.Figure:
    """Lines of a few quantities with one number per token, such as the lengths of embeddings: name -> [pos]."""
    colors, across = theme.series, theme.width - theme.beside
    return figure(
        [
            plotted(
                "scatter",
                x=np.arange(len(strings)),
                y=values,
                mode="lines+markers",
                name=name,
                line={"color": colors[number % len(colors)], "width": 2.5, "dash": _DASHES[number % len(_DASHES)]},
                marker={"size": 8},
                hovertemplate=f"<b>%{{x}}</b><br>{name} %{{y:.4f}}<extra></extra>",
            )
            for number, (name, values) in enumerate(zip(labels(list(series)), series.values(), strict=True))
        ],
        theme,
        height=theme.scaled(320),
        bottom=room(strings, theme, slanted=True),
        xaxis=token_axis(strings, theme, across, slanted=True),
        yaxis={"title": what, "range": span(*series.values())},
        **legend(list(series), theme, beside=theme.beside),
    )


def principal_scatter(
    coordinates: NDArray[np.floating],
    strings: Sequence[str],
    explained: NDArray[np.floating],
    *,
    chosen: int | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Scatter plot of tokens along their first principal components, in two or three dimensions.

    `coordinates` is [token, 2 or 3]; `explained` is each component's share of the variance, 0 to 1.
    """
    n_tokens, n_components = coordinates.shape
    titles = [f"component {number + 1} ({share:.0%})" for number, share in enumerate(explained)]
    common = {
        "mode": "markers+text",
        "text": labels(strings),
        "textposition": "top center",
        "textfont": {"size": theme.font_size, "color": theme.text},
        "customdata": np.arange(n_tokens),
        "marker": {
            "size": 11 if n_components == 2 else 6,
            "color": [theme.accent if position == chosen else theme.main for position in range(n_tokens)],
        },
        "hovertemplate": "<b>%{hovertext}</b>, position %{customdata}<extra></extra>",
        "hovertext": labels(strings),
    }
    if n_components == 2:
        height = min(theme.scaled(480), theme.height)
        common["text"] = _apart(coordinates, labels(strings), theme, height - theme.above_and_below)
        points = plotted("scatter", x=coordinates[:, 0], y=coordinates[:, 1], **common)
        return figure(
            points,
            theme,
            height=height,
            xaxis={"title": titles[0], "range": span(coordinates[:, 0])},
            yaxis={"title": titles[1], "range": span(coordinates[:, 1])},
        )
    x, y, z = coordinates.T
    common["text"] = labels_in_3d(strings)
    axes = {
        name: {"title": {"text": title}, "color": theme.text, "gridcolor": theme.grid, "gridwidth": 2, "ticks": ""}
        for name, title in zip(("xaxis", "yaxis", "zaxis"), titles, strict=True)
    }
    scene = {**axes, "camera": {"eye": {"x": 1.7, "y": 1.7, "z": 1.1}}}
    return figure(
        plotted("scatter3d", x=x, y=y, z=z, **common), theme, height=theme.scaled(560), left=0, bottom=0, scene=scene
    )


def _apart(coordinates: NDArray[np.floating], names: Sequence[str], theme: Theme, height: float) -> list[str]:
    """Return the names of points in a plot of this height, empty where a name has no room."""
    pixels = (theme.width - theme.beside, height)
    ends = [span(column) for column in coordinates.T]
    places = [
        [share * (value - low) / (high - low) for value in column]
        for column, (low, high), share in zip(coordinates.T.tolist(), ends, pixels, strict=True)
    ]
    shown: list[str] = []
    boxes: list[tuple[float, float, float]] = []  # centre across, centre down, width
    for name, x, y in zip(names, *places, strict=True):
        width = width_of(name, theme)
        is_inside = width / 2 - theme.scaled(60) < x < pixels[0] - width / 2
        is_free = is_inside and all(
            abs(x - other_x) > (width + other) / 2 + 4 or abs(y - other_y) > theme.font_size * 1.3
            for other_x, other_y, other in boxes
        )
        shown.append(name if is_free else "")
        boxes += [(x, y, width)] if is_free else []
    return shown


def position_waves(
    table: NDArray[np.floating], dimensions: Sequence[int], *, n_used: int | None = None, theme: Theme = LIGHT
) -> go.Figure:
    """Lines of chosen dimensions of the positional embedding [context_length, emb_dim] over the positions.

    The first `n_used` positions, those of the text, are marked.
    """
    colors = theme.series
    text = {"x0": 0, "x1": (n_used or 1) - 1, "yref": "y domain", "y0": 0, "y1": 1}
    return figure(
        [
            plotted(
                "scatter",
                x=np.arange(len(table)),
                y=table[:, dimension],
                mode="lines",
                name=f"dimension {dimension}",
                line={
                    "color": colors[number % len(colors)],
                    "width": 2,
                    "dash": _DASHES[number // len(colors) % len(_DASHES)],
                },
                hovertemplate=f"position %{{x}}<br>dimension {dimension}: %{{y:.4f}}<extra></extra>",
            )
            for number, dimension in enumerate(dimensions)
        ],
        theme,
        height=theme.scaled(340),
        xaxis={"title": "position", "showgrid": False},
        yaxis={"title": "value", "range": span(table[:, list(dimensions)])},
        shapes=[{"type": "rect", "fillcolor": theme.muted, "opacity": 0.15, "line": {"width": 0}, **text}]
        if n_used
        else [],
        **legend([f"dimension {dimension}" for dimension in dimensions], theme, beside=theme.beside),
    )


def position_similarity(cosines: NDArray[np.floating], step: int, *, theme: Theme = LIGHT) -> go.Figure:
    """Heat map of the cosine similarities between every `step`-th position: [position / step, position / step]."""
    axis = np.arange(len(cosines)) * step
    return figure(
        plotted(
            "heatmap",
            z=cosines.astype(np.float32),
            x=axis,
            y=axis,
            zmin=-1,
            zmax=1,
            zmid=0,
            colorscale=theme.diverging,
            colorbar=colorbar("cosine similarity", theme),
            hovertemplate="positions %{y} and %{x}<br>cosine similarity <b>%{z:.3f}</b><extra></extra>",
        ),
        theme,
        **squares(
            1, 1, theme, left=theme.scaled(75), top=theme.scaled(58), right=room_for_colorbar(theme), largest=420
        ),
        xaxis={"title": "position", "showgrid": False, "zeroline": False, "side": "top"},
        yaxis={"title": "position", "showgrid": False, "zeroline": False, "autorange": "reversed"},
    )


def depth_lines(
    series: Mapping[str, NDArray[np.floating]],
    rows: Sequence[str],
    *,
    what: str,
    logarithmic: bool = False,
    downwards: bool = False,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Numbers over the model's depth, one line per token or part: name -> [depth]; `rows` names the depths.

    `downwards` is for ranks: it puts rank 1 on top.
    """
    colors, across = theme.series, theme.width - theme.beside
    ends = span(*series.values(), logarithmic=logarithmic)
    return figure(
        [
            plotted(
                "scatter",
                x=np.arange(len(rows)),
                y=values,
                mode="lines+markers",
                name=name,
                line={"color": colors[number % 4], "width": 2.5, "dash": _DASHES[number // 4 % len(_DASHES)]},
                hovertemplate=f"<b>{name}</b><br>%{{x}}<br>{what} %{{y:.4g}}<extra></extra>",
            )
            for number, (name, values) in enumerate(zip(labels(list(series)), series.values(), strict=True))
        ],
        theme,
        height=theme.scaled(380),
        bottom=room(rows, theme, slanted=True),
        xaxis=named_axis(rows, theme, across, slanted=True) | {"range": [-0.25, len(rows) - 0.75]},
        yaxis={
            "title": what,
            "type": "log" if logarithmic else "linear",
            "range": ends[::-1] if downwards else ends,
            **(_log_ticks(ends) if logarithmic else {}),
        },
        **legend(list(series), theme, beside=theme.beside),
    )


def _log_ticks(ends: Sequence[float]) -> dict[str, Any]:
    """Full numbers on a logarithmic axis with these ends, in powers of ten. Plotly itself writes 2, 5, 10, 2."""
    decades = range(int(np.floor(ends[0])), int(np.ceil(ends[1])) + 1)
    steps = (1,) if ends[1] - ends[0] > 2 else (1, 2, 5)
    values = [step * 10.0**decade for decade in decades for step in steps]
    shown = [value for value in values if ends[0] <= np.log10(value) <= ends[1]]
    return {"tickvals": shown, "ticktext": [f"{value:,.10g}" for value in shown]} if shown else {}


def dimension_lines(series: Mapping[str, NDArray[np.floating]], *, theme: Theme = LIGHT) -> go.Figure:
    """Lines of a few vectors over their dimensions, such as a LayerNorm's gain and bias: name -> [dim]."""
    colors = theme.series
    return figure(
        [
            plotted(
                "scatter",
                y=values,
                mode="lines",
                name=name,
                line={"color": colors[number % len(colors)], "width": 1.5},
                hovertemplate=f"dimension %{{x}}<br>{name} <b>%{{y:.5f}}</b><extra></extra>",
            )
            for number, (name, values) in enumerate(zip(labels(list(series)), series.values(), strict=True))
        ],
        theme,
        height=theme.scaled(280),
        xaxis={"title": "dimension", "showgrid": False},
        yaxis={"range": span(*series.values())},
        **legend(list(series), theme, beside=theme.beside),
    )


def value_bars(
    values: NDArray[np.floating], names: Sequence[str], *, what: str, horizontal: bool = False, theme: Theme = LIGHT
) -> go.Figure:
    """Signed numbers [n] as bars, positive and negative in two colours, with a name for each."""
    values = np.asarray(values, dtype=float)
    ends = span(values, from_zero=True)
    axis = np.arange(len(values))
    bars = {"orientation": "h", "x": values, "y": axis} if horizontal else {"x": axis, "y": values}
    trace = plotted(
        "bar",
        **bars,
        marker={"color": np.where(values < 0, theme.accent, theme.main)},
        customdata=labels(list(names)),
        hovertemplate=f"<b>%{{customdata}}</b><br>{what} %{{{'x' if horizontal else 'y'}:.5g}}<extra></extra>",
    )
    if not horizontal:
        across = token_axis(list(names), theme, theme.width - theme.beside, slanted=True)
        return figure(
            trace,
            theme,
            height=theme.scaled(300),
            bottom=room(names, theme, slanted=True),
            xaxis=across,
            yaxis={"title": what, "range": ends},
        )
    height = min(theme.scaled(90 + 30 * len(values)), theme.height)
    down = named_axis(list(names), theme, height - theme.above_and_below) | {"range": [len(values) - 0.5, -0.5]}
    return figure(
        trace, theme, height=height, left=room(names, theme), xaxis={"title": what, "range": ends}, yaxis=down
    )


def gelu_curve(pre: NDArray[np.floating], post: NDArray[np.floating], *, theme: Theme = LIGHT) -> go.Figure:
    """The GELU curve with the values of a token's neurons on it: `pre` and `post` are [neuron]."""
    ends = pre[np.isfinite(pre)]
    low, high = float(np.min(ends, initial=-4.0)), float(np.max(ends, initial=3.0))
    x = np.linspace(low, high, 300)
    curve = operations.gelu(slice(None), x).value
    return figure(
        [
            plotted("scatter", x=x, y=curve, mode="lines", line={"color": theme.muted, "width": 2}, hoverinfo="skip"),
            plotted(
                "scatter",
                x=pre,
                y=post,
                mode="markers",
                marker={"size": 7, "color": theme.main, "opacity": 0.5},
                customdata=np.arange(len(pre)),
                hovertemplate="neuron %{customdata}<br>before %{x:.4f}<br>after <b>%{y:.4f}</b><extra></extra>",
            ),
        ],
        theme,
        height=theme.scaled(340),
        xaxis={"title": "before GELU", "range": [low, high]},
        yaxis={"title": "after GELU", "range": span(curve, post)},
    )
