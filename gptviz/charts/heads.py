"""All heads at once: as small maps, and as a grid coloured by a score."""

import base64
import io
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image
from plotly.colors import sample_colorscale

from .theme import LIGHT, Theme, color_scale, escaped, figure, plotted

_GAP = 2  # pixels between two small maps
_GREY = 255  # the palette's last colour; the 255 before it are for weights


def small_maps(tiles: NDArray[np.uint8], *, chosen: tuple[int, int] | None = None, theme: Theme = LIGHT) -> go.Figure:
    """Every head's pattern as a small map: layers down, heads across, as one PNG image.

    `tiles` is [layer, head, query, key], weights from 0 (none) to 255 (all), pooled if the text is
    long. `chosen` is the (layer, head) to frame. Each map has a transparent point on it, so that it
    can be clicked; its customdata is (layer, head).
    """
    n_layers, n_heads, side, _ = tiles.shape
    centres = np.arange(max(n_layers, n_heads)) * (side + _GAP) + (side - 1) / 2
    across, down = centres[:n_heads], centres[:n_layers]
    height = int(np.clip(1080 * n_layers / n_heads, 420, 2600))
    frames = []
    if chosen is not None:
        layer, head = chosen
        corner = np.array([head, layer]) * (side + _GAP) - _GAP / 2 - 0.5
        frames = [_frame(corner, side + _GAP, theme)]
    return figure(
        [
            plotted("image", source=_data_uri(_mosaic(tiles, theme)), hoverinfo="skip"),
            _clickable(across, down, size=max(8, 0.55 * height / n_layers)),
        ],
        theme,
        height=height,
        left=55,
        top=60,
        bottom=10,
        xaxis=_head_axis(across, "head") | {"side": "top"},
        yaxis=_head_axis(down, "layer"),
        dragmode=False,
        shapes=frames,
    )


def head_grid(
    values: NDArray[np.floating],
    *,
    what: str,
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    chosen: tuple[int, int] | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Grid of one number per head, such as a score: [layer, head]; layers down, heads across. Cells can be clicked."""
    n_layers, n_heads = values.shape
    height = int(np.clip(110 + 34 * n_layers, 260, 1500))
    across, down = np.arange(n_heads), np.arange(n_layers)
    return figure(
        [
            plotted(
                "heatmap",
                z=np.asarray(values, dtype=np.float32),
                **color_scale(what, theme, signed=signed, limits=limits),
                xgap=2,
                ygap=2,
                hoverinfo="skip",
            ),
            _clickable(across, down, size=max(8, 0.7 * (height - 110) / n_layers), values=values, what=what),
        ],
        theme,
        height=height,
        left=55,
        top=60,
        bottom=10,
        xaxis=_head_axis(across, "head") | {"side": "top", "range": [-0.5, n_heads - 0.5]},
        yaxis=_head_axis(down, "layer") | {"range": [n_layers - 0.5, -0.5]},
        dragmode=False,
        shapes=[] if chosen is None else [_frame(np.array([chosen[1], chosen[0]]) - 0.5, 1, theme)],
    )


def _mosaic(tiles: NDArray[np.uint8], theme: Theme) -> Image.Image:
    """The small maps side by side, one byte per pixel with a palette; the future and the gaps are grey."""
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
    """Red, green and blue bytes of every level, then of the grey."""
    colors = sample_colorscale(theme.sequential, np.linspace(0, 1, _GREY).tolist(), colortype="tuple")
    return np.round(255 * np.array(colors)).astype(np.uint8).tobytes() + bytes.fromhex(theme.future[1:])


def _data_uri(picture: Image.Image) -> str:
    png = io.BytesIO()
    picture.save(png, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _clickable(
    x: NDArray[np.number],
    y: NDArray[np.number],
    *,
    size: float,
    values: NDArray[np.floating] | None = None,
    what: str = "",
) -> dict[str, Any]:
    """A transparent square on every head: Streamlit reports clicks on points, not on heat maps or images."""
    layers, heads = np.divmod(np.arange(len(x) * len(y)), len(x))
    told = "" if values is None else f"<br>{escaped(what)} <b>%{{text}}</b>"
    return plotted(
        "scatter",
        x=x[heads],
        y=y[layers],
        mode="markers",
        marker={"symbol": "square", "size": size, "color": "rgba(0,0,0,0)"},
        customdata=np.column_stack((layers, heads)).tolist(),  # lists, since a typed row would come back as a dict
        text=None if values is None else [f"{value:.3f}" for value in values.ravel()],
        hovertemplate="layer <b>%{customdata[0]}</b>, head <b>%{customdata[1]}</b>"
        + told
        + "<br>click to open<extra></extra>",
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
    )


def _head_axis(centres: NDArray[np.number], title: str) -> dict[str, object]:
    return {
        "tickvals": centres.tolist(),
        "ticktext": [str(number) for number in range(len(centres))],
        "title": title,
        "showgrid": False,
        "zeroline": False,
        "showline": False,
    }


def _frame(corner: NDArray[np.floating], side: float, theme: Theme) -> dict[str, object]:
    x, y = corner.tolist()
    line = {"color": theme.accent, "width": 3}
    return {"type": "rect", "x0": x, "y0": y, "x1": x + side, "y1": y + side, "line": line}
