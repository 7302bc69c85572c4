"""One look for all charts: colours that colour-blind people can tell apart, large type, light and dark."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

FONT_SIZE = 15  # legible from the back row
_LONGEST_LABEL = 18  # characters
MAX_LABELS = 36  # most token labels on one axis without overlap
LABELS_OF_LONG_TEXTS = 24  # these fit even if a chart has half the page
# Plotly interprets these in a text: tags, entities, formulas (if a notebook has MathJax), %{...} in a hover template.
_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%": "&#37;"})

# Plotly measures every label to decide whether to rotate or hide it, which is slow. Our labels have room.
_UNMEASURED = {"tickangle": 0, "ticklabeloverflow": "allow"}


@dataclass(frozen=True)
class Theme:
    """Colours of one mode. Named scales are cmocean's, uniform in lightness; no common one has a dark middle."""

    text: str
    muted: str
    grid: str
    main: str  # bars and lines
    accent: str  # the user's choice
    on_accent: str  # text on the accent colour
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


def plotted(kind: str, **settings: Any) -> dict[str, Any]:
    """A Plotly trace of a kind such as `heatmap`, with one-dimensional data as lists (see `figure`).

    Returns a dict, not `go.Heatmap(...)`: Plotly validates it when the figure is made, and would validate an
    object twice.
    """
    for name in ("x", "y", "z", "customdata"):
        values = settings.get(name)
        if isinstance(values, np.ndarray) and values.ndim == 1:
            settings[name] = _listed(values)
    return {"type": kind, **settings}


def figure(
    traces: dict[str, Any] | list[dict[str, Any]],
    theme: Theme,
    *,
    height: int,
    left: float = 70,
    right: float = 10,
    top: float = 10,
    bottom: float = 55,
    xaxis: Mapping[str, Any] | None = None,
    yaxis: Mapping[str, Any] | None = None,
    **layout: Any,
) -> go.Figure:
    """A figure of the traces with the common look, on the page's background. Axis titles are strings here.

    Made to be drawn quickly. The layout is set all at once, because Plotly's `update_...` methods are much
    slower. The margins, in pixels, are fixed, because automatic margins make Plotly draw a chart several times
    (see `room`). Streamlit draws a new chart, and then again from a copy: with `datarevision`, without a template
    and with one-dimensional data as lists, Plotly sees that nothing is new and does not draw twice.
    """
    made = go.Figure(
        traces if isinstance(traces, list) else [traces],
        {
            "height": height,
            "margin": {"l": left, "r": right, "t": top, "b": bottom},
            "font": {"family": "Source Sans, Noto Sans, sans-serif", "size": FONT_SIZE, "color": theme.text},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hovermode": "closest",
            "hoverlabel": {"font": {"size": FONT_SIZE + 1}, "align": "left"},
            "showlegend": False,
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": theme.muted, "activecolor": theme.text},
            "autotypenumbers": "strict",
            "xaxis": _axis(xaxis or {}, theme),
            "yaxis": _axis(yaxis or {}, theme),
            "datarevision": 0,
            **layout,
        },
    )
    made.layout.template = None
    return made


def colorbar(title: str) -> dict[str, Any]:
    """The colour scale beside a heat map; a long title takes several lines, which leaves the map its width."""
    return {"title": {"text": "<br>".join(wrap(title, 12))}, "thickness": 14, "outlinewidth": 0, **_UNMEASURED}


def color_scale(what: str, theme: Theme, *, signed: bool, limits: tuple[float, float] | None = None) -> dict[str, Any]:
    """The colours of a heat map of `what`, between `limits` or the values' own; the middle one is 0 if `signed`."""
    low, high = limits or (None, None)
    return {
        "zmin": low,
        "zmax": high,
        "zmid": 0 if signed else None,
        "colorscale": theme.diverging if signed else theme.sequential,
        "colorbar": colorbar(what),
    }


def _axis(settings: Mapping[str, Any], theme: Theme) -> dict[str, Any]:
    title = {"text": settings.get("title", ""), "standoff": 15, "font": {"size": FONT_SIZE, "color": theme.muted}}
    named = {"ticktext", "labelalias"} & settings.keys()
    return {
        **(_UNMEASURED if named else {}),
        "gridcolor": theme.grid,
        "linecolor": theme.grid,
        "zerolinecolor": theme.grid,
        "zerolinewidth": 2,
        "tickfont": {"size": FONT_SIZE, "color": theme.text},
        **settings,
        "title": title,
    }


def _listed(values: NDArray[Any]) -> list[Any]:
    """The values as a list, with float32 in as few digits as possible and NaN as None."""
    exact = values.astype(str).astype(float) if values.dtype == np.float32 else values
    return np.where(np.isnan(exact), None, exact).tolist() if exact.dtype.kind == "f" else exact.tolist()  # type: ignore[call-overload]


def labels(strings: Sequence[str]) -> list[str]:
    """Token strings, safe as Plotly text: Plotly interprets tags and entities in labels, and tokens are data.

    The ends of long strings are cut; few tokens are that long.
    """
    return [escaped(_cut(string)) for string in strings]


def labels_in_3d(strings: Sequence[str]) -> list[str]:
    """`labels` for text in WebGL, which interprets tags but not entities: an invisible character breaks the tags."""
    return [_cut(string).replace("<", "<\u2060") for string in strings]


def escaped(string: str) -> str:
    """Escape a string so that Plotly shows it as it is."""
    return string.translate(_MARKUP)


def largest(values: NDArray[np.floating], percentile: float = 100) -> float:
    """End of a scale centred on zero: this percentile of the absolute values (default: the largest), never 0.

    NaN and infinite values are ignored.
    """
    finite = np.abs(values[np.isfinite(values)])
    return float(np.percentile(finite, percentile)) or 1.0 if finite.size else 1.0


def span(*values: ArrayLike, from_zero: bool = False, logarithmic: bool = False) -> list[float]:
    """Ends of an axis for these numbers, with a small margin; `from_zero` for bars; `logarithmic` in powers of ten.

    The ends are not left to Plotly, because on a page that is edited quickly an automatic range can keep fitting
    the previous numbers.
    """
    shown = np.concatenate([np.ravel(np.asarray(some, dtype=float)) for some in values]) if values else np.zeros(0)
    shown = np.log10(shown[shown > 0]) if logarithmic else shown
    shown = shown[np.isfinite(shown)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    air = 0.06 * (high - low) or 0.5
    return [low - air if low or not from_zero else 0.0, high + air if high or not from_zero else 0.0]


def room(strings: Sequence[str], *, title: bool = False, slanted: bool = False) -> float:
    """Pixels that labels need beside an axis (if `slanted`, above or below it); `title` adds room for an axis title."""
    longest = max((_width(_cut(string)) for string in strings), default=0)
    across = 8.3 * FONT_SIZE / 15 * longest
    return (across * 0.87 + 18 if slanted else across + 14) + (26 if title else 0)


def _cut(string: str) -> str:
    return string if len(string) <= _LONGEST_LABEL else string[: _LONGEST_LABEL - 1] + "…"


def _width(string: str) -> int:
    """Width in characters; East Asian characters and emoji count as two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in string)


def token_axis(strings: Sequence[str], *, pooled: int = 1) -> dict[str, object]:
    """An integer axis that shows tokens: equal tokens stay apart, and hover shows the token too.

    Long texts use `labelalias` rather than tick text, so that Plotly thins out labels that have no room.
    Where `pooled` tokens share a cell, hover shows the first of them.
    """
    names = labels(strings)
    alias = {str(position): name for position, name in enumerate(names)}
    alias |= {f"{position + 0.5:g}": " " for position in range(-1, len(strings))}  # no label between two tokens
    if pooled > 1:
        centres = ((first, first + (pooled - 1) / 2) for first in range(0, len(strings), pooled))
        alias |= {f"{centre:g}": f"{names[first]} …" for first, centre in list(centres)}
    few = len(strings) <= MAX_LABELS and pooled == 1
    ticks: dict[str, object] = (
        {"tickvals": list(range(len(names))), "ticktext": names}
        if few
        else {"labelalias": alias, "nticks": LABELS_OF_LONG_TEXTS}
    )
    return {
        **ticks,
        "range": [-0.5, len(strings) - 0.5],
        "showgrid": False,
        "zeroline": False,
        "exponentformat": "none",
    }
