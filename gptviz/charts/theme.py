"""One look for all charts: colours that colour-blind people can tell apart, large type, light and dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

FONT_SIZE = 15  # pixels; the natural heights of the charts are made for this size
_LONGEST_LABEL = 18  # characters
CHARACTER = 0.555  # mean width, in font sizes
# Plotly interprets these in a text: tags, entities, formulas (if a notebook has MathJax), %{...} in a hover template.
_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%": "&#37;"})

# Plotly measures every label to decide whether to rotate or hide it, which is slow. Our labels have room.
_UNMEASURED = {"tickangle": 0, "ticklabeloverflow": "allow"}


@dataclass(frozen=True)
class Theme:
    """The look of a chart: the colours of light or dark mode, the size of text, and the room that the chart has.

    Named scales are cmocean's, uniform in lightness; no common one has a dark middle.
    """

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
    font_size: float = FONT_SIZE  # pixels, of all text in the chart
    width: int = 700  # pixels; labels that would overlap at this width are left out
    height: int = 10_000  # pixels; the most that a chart takes

    @property
    def series(self) -> tuple[str, str, str, str]:
        """Colours of lines and bars side by side: first what the page is about, then what it is compared with."""
        return self.main, self.second, self.accent, self.muted

    @property
    def beside(self) -> float:
        """Pixels of the usual margins on the left and right of a chart, together: see `figure`."""
        return self.scaled(85)

    @property
    def above_and_below(self) -> float:
        """Pixels of the usual margins above and below a chart, together: see `figure`."""
        return self.scaled(68)

    def scaled(self, pixels: float) -> float:
        """Return a length that suits the usual font size, for this one."""
        return pixels * self.font_size / FONT_SIZE


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
    height: float,
    left: float | None = None,
    right: float = 10,
    top: float = 10,
    bottom: float | None = None,
    xaxis: Mapping[str, Any] | None = None,
    yaxis: Mapping[str, Any] | None = None,
    **layout: Any,
) -> go.Figure:
    """A figure of the traces with the common look, on the page's background. Axis titles are strings here.

    `height` is in pixels; the chart is no higher than the theme allows.

    Made to be drawn quickly. The layout is set all at once, because Plotly's `update_...` methods are much
    slower. The margins, in pixels, are fixed, because automatic margins make Plotly draw a chart several times
    (see `room`). Streamlit draws a new chart, and then again from a copy: with `datarevision`, without a template
    and with one-dimensional data as lists, Plotly sees that nothing is new and does not draw twice.
    """
    made = go.Figure(
        traces if isinstance(traces, list) else [traces],
        {
            "height": round(min(height, theme.height)),
            "margin": {
                "l": theme.scaled(75) if left is None else left,
                "r": right,
                "t": top,
                "b": theme.scaled(58) if bottom is None else bottom,
            },
            "font": {"family": "Source Sans, Noto Sans, sans-serif", "size": theme.font_size, "color": theme.text},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hovermode": "closest",
            "hoverlabel": {"font": {"size": theme.font_size + 1}, "align": "left"},
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


def colorbar(title: str, theme: Theme, *, length: float = 1000) -> dict[str, Any]:
    """The colour scale beside a heat map. It needs `room_for_colorbar` on the right.

    Its title stands along it, since a title above it would make it, and the map, narrow. If it is longer than the
    scale, which has a `length` in pixels, it is left out; hover names the values too.
    """
    title = title if len(title) * theme.font_size * CHARACTER <= length else ""
    font = {"size": theme.font_size, "color": theme.text}
    return {
        "title": {"text": title, "side": "right", "font": font},
        "tickfont": font,
        "thickness": 14,
        "outlinewidth": 0,
        "nticks": 6,
        "xpad": 8,
        "ypad": 0,
        **_UNMEASURED,
    }


def room_for_colorbar(theme: Theme) -> float:
    """Pixels that a colour scale needs on the right of a heat map, with its numbers and its title."""
    return 30 + theme.font_size * (6 * CHARACTER + 1.6)


def color_scale(what: str, theme: Theme, *, signed: bool, limits: tuple[float, float] | None = None) -> dict[str, Any]:
    """The colours of a heat map of `what`, between `limits` or the values' own; the middle one is 0 if `signed`."""
    low, high = limits or (None, None)
    return {
        "zmin": low,
        "zmax": high,
        "zmid": 0 if signed else None,
        "colorscale": theme.diverging if signed else theme.sequential,
        "colorbar": colorbar(what, theme),
    }


def _axis(settings: Mapping[str, Any], theme: Theme) -> dict[str, Any]:
    title = {"text": settings.get("title", ""), "standoff": 12, "font": {"size": theme.font_size, "color": theme.muted}}
    named = {"ticktext", "labelalias"} & settings.keys()
    return {
        **(_UNMEASURED if named else {}),
        "gridcolor": theme.grid,
        "linecolor": theme.grid,
        "zerolinecolor": theme.grid,
        "zerolinewidth": 2,
        "tickfont": {"size": theme.font_size, "color": theme.text},
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
    return [escaped(cut(string)) for string in strings]


def labels_in_3d(strings: Sequence[str]) -> list[str]:
    """`labels` for text in WebGL, which interprets tags but not entities: an invisible character breaks the tags."""
    return [cut(string).replace("<", "<\u2060") for string in strings]


def cut(string: str) -> str:
    """Return the string, or its beginning if it is too long for a label."""
    return string if len(string) <= _LONGEST_LABEL else string[: _LONGEST_LABEL - 1] + "…"


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
