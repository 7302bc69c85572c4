"""All heads at once: as small maps, and as a grid coloured by a score."""

import base64
import io
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image
from plotly.colors import sample_colorscale

from .axes import cells, frame, label_step, length_of, squares
from .theme import LIGHT, Theme, color_scale, escaped, figure, plotted, room_for_colorbar

_GAP = 2  # pixels between two small maps
_GREY = 255  # the palette's last colour; the 255 before it are for weights


def small_maps(tiles: NDArray[np.uint8], *, chosen: tuple[int, int] | None = None, theme: Theme = LIGHT) -> go.Figure:
    """Every head's pattern as a small map: layers down, heads across, as one PNG image.

    `tiles` is [layer, head, query, key], weights from 0 (none) to 255 (all), pooled if the text is
    long. `chosen` is the (layer, head) to frame. A click on a map chooses the head.
    """
    n_layers, n_heads, side, _ = tiles.shape
    step = side + _GAP
    centres = np.arange(max(n_layers, n_heads)) * step + (side - 1) / 2
    across, down = centres[:n_heads], centres[:n_layers]
    place = squares(n_heads, n_layers, theme, largest=160, **_margins(theme, right=10))
    return figure(
        [plotted("image", source=_data_uri(_mosaic(tiles, theme)), hoverinfo="skip"), _names(across, down)],
        theme,
        **place,
        xaxis=_head_axis(across, "head", _inside(place, theme)[0], theme) | {"side": "top"},
        yaxis=_head_axis(down, "layer", _inside(place, theme)[1], theme),
        dragmode=False,
        shapes=[]
        if chosen is None
        else [frame(chosen[1] * step - _GAP / 2 - 0.5, chosen[0] * step - _GAP / 2 - 0.5, step, step, theme.accent)],
        **cells("head", n_heads, n_layers, step=step),
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
    across, down = np.arange(n_heads), np.arange(n_layers)
    largest = max(56, 180 / n_layers)  # the titles need some room even for one layer
    place = squares(n_heads, n_layers, theme, largest=largest, **_margins(theme, right=room_for_colorbar(theme)))
    return figure(
        plotted(
            "heatmap",
            z=np.asarray(values, dtype=np.float32),
            **color_scale(what, theme, signed=signed, limits=limits),
            xgap=2,
            ygap=2,
            hovertemplate="layer <b>%{y}</b>, head <b>%{x}</b><br>"
            f"{escaped(what)} <b>%{{z:.3f}}</b><br>click for more<extra></extra>",
        ),
        theme,
        **place,
        xaxis=_head_axis(across, "head", _inside(place, theme)[0], theme)
        | {"side": "top", "range": [-0.5, n_heads - 0.5]},
        yaxis=_head_axis(down, "layer", _inside(place, theme)[1], theme) | {"range": [n_layers - 0.5, -0.5]},
        dragmode=False,
        shapes=[] if chosen is None else [frame(chosen[1] - 0.5, chosen[0] - 0.5, 1, 1, theme.accent)],
        **cells("head", n_heads, n_layers),
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


def _names(x: NDArray[np.number], y: NDArray[np.number]) -> dict[str, Any]:
    """An invisible point on every head: an image has no hover of its own that could name the heads."""
    layers, heads = np.divmod(np.arange(len(x) * len(y)), len(x))
    return plotted(
        "scatter",
        x=x[heads],
        y=y[layers],
        mode="markers",
        marker={"size": 8, "color": "rgba(0,0,0,0)"},
        customdata=np.column_stack((layers, heads)).tolist(),  # lists, since a typed row would come back as a dict
        hovertemplate="layer <b>%{customdata[0]}</b>, head <b>%{customdata[1]}</b><br>click for more<extra></extra>",
    )


def _margins(theme: Theme, *, right: float) -> dict[str, float]:
    return {"left": theme.scaled(58), "top": theme.scaled(58), "right": right}


def _inside(place: dict[str, Any], theme: Theme) -> tuple[float, float]:
    """Width and height of the plot inside the margins, in pixels."""
    return theme.width - place["left"] - place["right"], length_of(place)


def _head_axis(centres: NDArray[np.number], title: str, length: float, theme: Theme) -> dict[str, Any]:
    step = label_step(len(centres), length, theme)
    return {
        "tickvals": centres[::step].tolist(),
        "ticktext": [str(number) for number in range(0, len(centres), step)],
        "title": title,
        "showgrid": False,
        "zeroline": False,
        "showline": False,
    }
