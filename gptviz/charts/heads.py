"""All heads at once: as small maps, and as a grid coloured by a score."""

import base64
import io

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image
from plotly.colors import sample_colorscale

from .theme import FONT_SIZE, LIGHT, Theme, escaped, style

_GAP = 2  # pixels between two small maps
_GREY = 255  # the palette's last colour; weights have the 255 before


def small_maps(tiles: NDArray[np.uint8], *, chosen: tuple[int, int] | None = None, theme: Theme = LIGHT) -> go.Figure:
    """Every head's pattern as a small map: layers down, heads across, as one PNG image.

    `tiles` is [layer, head, query, key], weights from 0 (none) to 255 (all), pooled where the text
    is long. `chosen` is a (layer, head) to frame. Each map has a see-through point on it, so that
    it can be clicked; its customdata is (layer, head).
    """
    n_layers, n_heads, side, _ = tiles.shape
    figure = go.Figure(go.Image(source=_data_uri(_mosaic(tiles, theme)), hoverinfo="skip"))
    centres = np.arange(max(n_layers, n_heads)) * (side + _GAP) + (side - 1) / 2
    height = int(np.clip(1080 * n_layers / n_heads, 420, 2600))
    _add_clickable(figure, centres[:n_heads], centres[:n_layers], size=max(8, 0.55 * height / n_layers))
    style(figure, theme, height=height, left=55, top=60, bottom=10)
    _head_axes(figure, centres[:n_heads], centres[:n_layers])
    if chosen is not None:
        layer, head = chosen
        corner = np.array([head, layer]) * (side + _GAP) - _GAP / 2 - 0.5
        _frame(figure, corner, side + _GAP, theme)
    return figure


def head_grid(
    values: NDArray[np.floating],
    *,
    what: str,
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    chosen: tuple[int, int] | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """One number a head, such as a score: [layer, head]; layers down, heads across. Cells can be clicked."""
    n_layers, n_heads = values.shape
    low, high = limits or (None, None)
    figure = go.Figure(
        go.Heatmap(
            z=np.asarray(values, dtype=np.float32),
            zmin=low,
            zmax=high,
            zmid=0 if signed else None,
            colorscale=theme.diverging if signed else theme.sequential,
            colorbar={"title": {"text": what}, "thickness": 14, "outlinewidth": 0},
            xgap=2,
            ygap=2,
            hoverinfo="skip",
        )
    )
    height = int(np.clip(110 + 34 * n_layers, 260, 1500))
    _add_clickable(
        figure, np.arange(n_heads), np.arange(n_layers), size=max(8, 0.7 * (height - 110) / n_layers), values=values,
        what=what,
    )  # fmt: skip
    style(figure, theme, height=height, left=55, top=60, bottom=10)
    _head_axes(figure, np.arange(n_heads), np.arange(n_layers))
    figure.update_yaxes(range=[n_layers - 0.5, -0.5])
    if chosen is not None:
        _frame(figure, np.array([chosen[1], chosen[0]]) - 0.5, 1, theme)
    return figure


def _mosaic(tiles: NDArray[np.uint8], theme: Theme) -> Image.Image:
    """The small maps side by side, one byte a pixel with a palette; the future and the gaps are grey."""
    n_layers, n_heads, side, _ = tiles.shape
    levels = np.round(tiles * ((_GREY - 1) / 255)).astype(np.uint8)
    levels[..., np.triu(np.ones((side, side), dtype=bool), k=1)] = _GREY
    padded = np.full((n_layers, n_heads, side + _GAP, side + _GAP), _GREY, dtype=np.uint8)
    padded[:, :, :side, :side] = levels
    pixels = padded.transpose(0, 2, 1, 3).reshape(n_layers * (side + _GAP), n_heads * (side + _GAP))
    picture = Image.fromarray(np.ascontiguousarray(pixels[:-_GAP, :-_GAP]))
    picture.putpalette(_palette(theme))
    return picture


def _palette(theme: Theme) -> bytes:
    """Red, green and blue of every level, and of the grey."""
    colors = sample_colorscale(theme.sequential, np.linspace(0, 1, _GREY).tolist(), colortype="tuple")
    return np.round(255 * np.array(colors)).astype(np.uint8).tobytes() + bytes.fromhex(theme.future[1:])


def _data_uri(picture: Image.Image) -> str:
    png = io.BytesIO()
    picture.save(png, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _add_clickable(
    figure: go.Figure,
    x: NDArray[np.number],
    y: NDArray[np.number],
    *,
    size: float,
    values: NDArray[np.floating] | None = None,
    what: str = "",
) -> None:
    """A see-through square on every head: Streamlit reports clicks on points, not on heat maps or images."""
    layers, heads = np.divmod(np.arange(len(x) * len(y)), len(x))
    told = "" if values is None else f"<br>{escaped(what)} <b>%{{text}}</b>"
    figure.add_trace(
        go.Scatter(
            x=x[heads],
            y=y[layers],
            mode="markers",
            marker={"symbol": "square", "size": size, "color": "rgba(0,0,0,0)"},
            customdata=np.column_stack((layers, heads)).tolist(),  # as lists: a typed row would come back as a dict
            text=None if values is None else [f"{value:.3f}" for value in values.ravel()],
            hovertemplate="layer <b>%{customdata[0]}</b>, head <b>%{customdata[1]}</b>"
            + told
            + "<br>click to open<extra></extra>",
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
        )
    )


def _head_axes(figure: go.Figure, x: NDArray[np.number], y: NDArray[np.number]) -> None:
    figure.update_xaxes(
        tickvals=x, ticktext=[str(head) for head in range(len(x))], title_text="head", side="top", showgrid=False,
        zeroline=False, showline=False,
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=y, ticktext=[str(layer) for layer in range(len(y))], title_text="layer", showgrid=False,
        zeroline=False, showline=False,
    )  # fmt: skip
    figure.update_layout(dragmode=False, font_size=FONT_SIZE)


def _frame(figure: go.Figure, corner: NDArray[np.floating], side: float, theme: Theme) -> None:
    figure.add_shape(
        type="rect", x0=corner[0], y0=corner[1], x1=corner[0] + side, y1=corner[1] + side,
        line={"color": theme.accent, "width": 3},
    )  # fmt: skip
