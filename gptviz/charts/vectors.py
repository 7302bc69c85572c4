"""Vectors of tokens and positions: their lengths, their places in few dimensions, their course."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from .theme import FONT_SIZE, LIGHT, Theme, labels, labels_in_3d, room, style, token_axis

_LEGEND = 70  # pixels above a chart for up to two rows of names
_DASHES = ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot")


def token_lines(
    series: Mapping[str, NDArray[np.floating]], strings: Sequence[str], *, what: str, theme: Theme = LIGHT
) -> go.Figure:
    """One number per token for a few quantities, such as the lengths of embeddings: name -> [pos]."""
    colors = (theme.main, theme.accent, theme.second, theme.muted)
    figure = go.Figure(
        [
            go.Scatter(
                x=np.arange(len(strings)),
                y=values,
                mode="lines+markers",
                name=name,
                line={"color": colors[number % len(colors)], "width": 2.5, "dash": _DASHES[number % len(_DASHES)]},
                marker={"size": 8},
                hovertemplate=f"<b>%{{x}}</b><br>{name} %{{y:.4f}}<extra></extra>",
            )
            for number, (name, values) in enumerate(zip(labels(list(series)), series.values(), strict=True))
        ]
    )
    style(figure, theme, height=320, bottom=room(strings, slanted=True), top=_LEGEND)
    figure.update_xaxes(token_axis(strings), tickangle=-60)
    figure.update_yaxes(title_text=what)
    return _with_legend(figure)


def principal_scatter(
    coordinates: NDArray[np.floating],
    strings: Sequence[str],
    explained: NDArray[np.floating],
    *,
    chosen: int | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Tokens along their first principal components, in two or three dimensions.

    `coordinates` is [token, 2 or 3]; `explained` is each component's share of the variance, 0 to 1.
    """
    n_tokens, n_components = coordinates.shape
    titles = [f"component {number + 1} ({share:.0%})" for number, share in enumerate(explained)]
    common = {
        "mode": "markers+text",
        "text": labels(strings),
        "textposition": "top center",
        "textfont": {"size": FONT_SIZE, "color": theme.text},
        "customdata": np.arange(n_tokens),
        "marker": {
            "size": 11 if n_components == 2 else 6,
            "color": [theme.accent if position == chosen else theme.main for position in range(n_tokens)],
        },
        "hovertemplate": "<b>%{text}</b>, position %{customdata}<extra></extra>",
    }
    if n_components == 2:
        figure = style(go.Figure(go.Scatter(x=coordinates[:, 0], y=coordinates[:, 1], **common)), theme, height=480)
        figure.update_xaxes(title_text=titles[0])
        figure.update_yaxes(title_text=titles[1])
        return figure
    x, y, z = coordinates.T
    common |= {"text": labels_in_3d(strings), "hovertext": common["text"]}
    common["hovertemplate"] = "<b>%{hovertext}</b>, position %{customdata}<extra></extra>"
    figure = style(go.Figure(go.Scatter3d(x=x, y=y, z=z, **common)), theme, height=560, left=0, bottom=0)
    axes = (
        {"title": {"text": title}, "color": theme.text, "gridcolor": theme.grid, "backgroundcolor": "rgba(0,0,0,0)"}
        for title in titles
    )
    figure.update_layout(
        scene=dict(zip(("xaxis", "yaxis", "zaxis"), axes, strict=True)), scene_camera_eye={"x": 1.7, "y": 1.7, "z": 1.1}
    )
    return figure


def position_waves(
    table: NDArray[np.floating], dimensions: Sequence[int], *, n_used: int | None = None, theme: Theme = LIGHT
) -> go.Figure:
    """Chosen dimensions of the positional embedding [context_length, emb_dim] over the positions.

    The first `n_used` positions, those of the text, are marked.
    """
    colors = (theme.main, theme.accent, theme.second, theme.muted)
    figure = go.Figure(
        [
            go.Scatter(
                x=np.arange(len(table)),
                y=table[:, dimension],
                mode="lines",
                name=f"dimension {dimension}",
                line={"color": colors[number % len(colors)], "width": 2, "dash": _DASHES[number // len(colors)]},
                hovertemplate=f"position %{{x}}<br>dimension {dimension}: %{{y:.4f}}<extra></extra>",
            )
            for number, dimension in enumerate(dimensions)
        ]
    )
    style(figure, theme, height=340, top=_LEGEND)
    figure.update_xaxes(title_text="position", showgrid=False)
    figure.update_yaxes(title_text="value")
    if n_used:
        figure.add_vrect(x0=0, x1=n_used - 1, fillcolor=theme.muted, opacity=0.15, line_width=0)
    return _with_legend(figure)


def position_similarity(cosines: NDArray[np.floating], step: int, *, theme: Theme = LIGHT) -> go.Figure:
    """Cosine between positions, every `step`-th of them: [position / step, position / step]."""
    axis = np.arange(len(cosines)) * step
    figure = go.Figure(
        go.Heatmap(
            z=cosines.astype(np.float32),
            x=axis,
            y=axis,
            zmin=-1,
            zmax=1,
            zmid=0,
            colorscale=theme.diverging,
            colorbar={"title": {"text": "cosine"}, "thickness": 14, "outlinewidth": 0},
            hovertemplate="positions %{y} and %{x}<br>cosine <b>%{z:.3f}</b><extra></extra>",
        )
    )
    style(figure, theme, height=480)
    figure.update_xaxes(title_text="position", showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="position", showgrid=False, zeroline=False, autorange="reversed")
    return figure


def depth_lines(
    series: Mapping[str, NDArray[np.floating]],
    rows: Sequence[str],
    *,
    what: str,
    logarithmic: bool = False,
    downwards: bool = False,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Numbers over the model's depth, one line a token or part: name -> [depth]; `rows` names the depths.

    `downwards` is for ranks, the first of which is on top.
    """
    colors = (theme.accent, theme.main, theme.second, theme.muted)
    figure = go.Figure(
        [
            go.Scatter(
                x=np.arange(len(rows)),
                y=values,
                mode="lines+markers",
                name=name,
                line={"color": colors[number % 4], "width": 2.5, "dash": _DASHES[number // 4 % len(_DASHES)]},
                hovertemplate=f"<b>{name}</b><br>%{{x}}<br>{what} %{{y:.4g}}<extra></extra>",
            )
            for number, (name, values) in enumerate(zip(labels(list(series)), series.values(), strict=True))
        ]
    )
    style(figure, theme, height=380, bottom=room(rows, slanted=True), top=_LEGEND)
    figure.update_xaxes(tickvals=np.arange(len(rows)), ticktext=list(rows), tickangle=-60, showgrid=False)
    figure.update_yaxes(title_text=what, type="log" if logarithmic else "linear")
    if downwards:
        figure.update_yaxes(autorange="reversed", dtick=1)
    return _with_legend(figure)


def dimension_lines(series: Mapping[str, NDArray[np.floating]], *, theme: Theme = LIGHT) -> go.Figure:
    """A few vectors over their dimensions, such as a LayerNorm's gain and bias: name -> [dim]."""
    colors = (theme.main, theme.accent, theme.second)
    figure = go.Figure(
        [
            go.Scatter(
                y=values,
                mode="lines",
                name=name,
                line={"color": colors[number % len(colors)], "width": 1.5},
                hovertemplate=f"dimension %{{x}}<br>{name} <b>%{{y:.5f}}</b><extra></extra>",
            )
            for number, (name, values) in enumerate(zip(labels(list(series)), series.values(), strict=True))
        ]
    )
    style(figure, theme, height=280, top=_LEGEND)
    figure.update_xaxes(title_text="dimension", showgrid=False)
    return _with_legend(figure)


def value_bars(
    values: NDArray[np.floating],
    names: Sequence[str],
    *,
    what: str,
    horizontal: bool = False,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Signed numbers as bars, positive and negative in two colours: [n], with a name each."""
    values = np.asarray(values, dtype=float)
    axis = np.arange(len(values))
    bars = {"orientation": "h", "x": values, "y": axis} if horizontal else {"x": axis, "y": values}
    figure = go.Figure(
        go.Bar(
            **bars,
            marker={"color": np.where(values < 0, theme.accent, theme.main)},
            customdata=labels(list(names)),
            hovertemplate=f"<b>%{{customdata}}</b><br>{what} %{{{'x' if horizontal else 'y'}:.5g}}<extra></extra>",
        )
    )
    style(
        figure, theme, height=90 + 30 * len(values) if horizontal else 300,
        left=room(names) if horizontal else 70, bottom=55 if horizontal else room(names, slanted=True),
    )  # fmt: skip
    if horizontal:
        figure.update_yaxes(
            tickvals=axis, ticktext=labels(list(names)), range=[len(values) - 0.5, -0.5], showgrid=False, zeroline=False
        )
        figure.update_xaxes(title_text=what)
    else:
        figure.update_xaxes(token_axis(list(names)), tickangle=-60)
        figure.update_yaxes(title_text=what)
    return figure


def gelu_curve(pre: NDArray[np.floating], post: NDArray[np.floating], *, theme: Theme = LIGHT) -> go.Figure:
    """The GELU curve, with values of a token's neurons on it: `pre` and `post` are [neuron]."""
    ends = pre[np.isfinite(pre)]
    low, high = float(np.min(ends, initial=-4.0)), float(np.max(ends, initial=3.0))
    x = np.linspace(low, high, 300)
    curve = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    figure = go.Figure(
        [
            go.Scatter(x=x, y=curve, mode="lines", line={"color": theme.muted, "width": 2}, hoverinfo="skip"),
            go.Scatter(
                x=pre,
                y=post,
                mode="markers",
                marker={"size": 7, "color": theme.main, "opacity": 0.5},
                customdata=np.arange(len(pre)),
                hovertemplate="neuron %{customdata}<br>before %{x:.4f}<br>after <b>%{y:.4f}</b><extra></extra>",
            ),
        ]
    )
    style(figure, theme, height=340)
    figure.update_xaxes(title_text="before GELU")
    figure.update_yaxes(title_text="after GELU")
    return figure


def _with_legend(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "font": {"size": FONT_SIZE}}
    )
    return figure
