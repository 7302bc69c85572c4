"""One look for all charts: colours that colour-blind people tell apart, large type, light and dark."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

FONT_SIZE = 15  # legible from the back row
_LONGEST_LABEL = 18  # characters
MAX_LABELS = 36  # token labels on one axis, before they run into each other
LABELS_OF_LONG_TEXTS = 24  # also where a chart has half the page
# What Plotly reads in a text: tags, entities, formulas (where a notebook has MathJax), and %{...} in a hover template.
_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%": "&#37;"})


@dataclass(frozen=True)
class Theme:
    """Colours of one mode. The named scales are cmocean's, even in lightness; no common one has a dark middle."""

    text: str
    muted: str
    grid: str
    main: str  # bars and lines
    accent: str  # what the person chose
    on_accent: str  # writing on it
    second: str  # the other direction, the comparison
    future: str  # cells that the mask forbids
    sequential: str  # 0 to 1
    diverging: str | tuple[tuple[float, str], ...]  # signed; its middle, zero, is near the page's background


LIGHT = Theme(
    text="#14212B",
    muted="#5A6872",
    grid="#DDE3E8",
    main="#0072B2",
    accent="#C24E00",
    on_accent="#FFFFFF",
    second="#007A5A",
    future="#E4E7EA",
    sequential="ice_r",
    diverging="balance",
)
DARK = Theme(
    text="#EDF1F4",
    muted="#A3B0BA",
    grid="#2C3741",
    main="#56B4E9",
    accent="#F5A742",
    on_accent="#0F1419",
    second="#4FD1A5",
    future="#2A323A",
    sequential="ice",
    diverging=((0.0, "#9AD6F8"), (0.25, "#2C7FB0"), (0.5, "#151B21"), (0.75, "#B5651D"), (1.0, "#FFD08A")),
)


def style(
    figure: go.Figure,
    theme: Theme,
    *,
    height: int,
    left: float = 70,
    right: float = 10,
    top: float = 10,
    bottom: float = 55,
) -> go.Figure:
    """Give `figure` the common look; the background is the page's.

    The margins, in pixels, are fixed: Plotly's automatic ones draw every chart twice (see `room`).
    """
    axis = {
        "gridcolor": theme.grid,
        "linecolor": theme.grid,
        "zerolinecolor": theme.grid,
        "tickfont": {"size": FONT_SIZE, "color": theme.text},
        "title": {"font": {"size": FONT_SIZE, "color": theme.muted}},
    }
    figure.update_layout(
        height=height,
        font={"family": "Source Sans, Noto Sans, sans-serif", "size": FONT_SIZE, "color": theme.text},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": left, "r": right, "t": top, "b": bottom, "autoexpand": True},
        hoverlabel={"font": {"size": FONT_SIZE + 1}, "align": "left"},
        showlegend=False,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": theme.muted, "activecolor": theme.text},
    )
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    return figure


def labels(strings: Sequence[str]) -> list[str]:
    """Token strings, safe as Plotly text: Plotly reads tags and entities in labels, and tokens are data.

    Few tokens are longer than what is shown; their ends are cut.
    """
    return [escaped(_cut(string)) for string in strings]


def labels_in_3d(strings: Sequence[str]) -> list[str]:
    """The same for text in WebGL, where tags are read and entities are not: an invisible character breaks a tag."""
    return [_cut(string).replace("<", "<\u2060") for string in strings]


def escaped(string: str) -> str:
    """A string that Plotly shows as it is."""
    return string.translate(_MARKUP)


def largest(values: NDArray[np.floating], percentile: float = 100) -> float:
    """Where a scale centred on zero ends: the largest absolute value, leaving out what is no number; never 0."""
    finite = np.abs(values[np.isfinite(values)])
    return float(np.percentile(finite, percentile)) or 1.0 if finite.size else 1.0


def room(strings: Sequence[str], *, title: bool = False, slanted: bool = False) -> float:
    """Pixels that these labels take beside an axis (or, `slanted`, above or below one), with an axis title or not."""
    longest = max((_width(_cut(string)) for string in strings), default=0)
    across = 8.3 * FONT_SIZE / 15 * longest
    return (across * 0.87 + 18 if slanted else across + 14) + (26 if title else 0)


def _cut(string: str) -> str:
    return string if len(string) <= _LONGEST_LABEL else string[: _LONGEST_LABEL - 1] + "…"


def _width(string: str) -> int:
    """In characters; those of East Asia and emoji take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in string)


def token_axis(strings: Sequence[str], *, pooled: int = 1) -> dict[str, object]:
    """An integer axis that shows tokens: equal tokens stay apart, and hover shows the token too.

    `labelalias` rather than tick text, so that Plotly thins the labels out where there is no room.
    Where `pooled` tokens share a cell, hover shows the first of them.
    """
    alias = {str(position): label for position, label in enumerate(labels(strings))}
    alias |= {f"{position + 0.5:g}": " " for position in range(-1, len(strings))}  # between two tokens: nothing
    if pooled > 1:
        centres = ((first, first + (pooled - 1) / 2) for first in range(0, len(strings), pooled))
        alias |= {f"{centre:g}": f"{alias[str(first)]} …" for first, centre in list(centres)}
    few = len(strings) <= MAX_LABELS
    ticks: dict[str, object] = {"tick0": 0, "dtick": 1} if few else {"nticks": LABELS_OF_LONG_TEXTS}
    return {
        "labelalias": alias,
        **ticks,
        "range": [-0.5, len(strings) - 0.5],
        "showgrid": False,
        "zeroline": False,
        "exponentformat": "none",
    }
