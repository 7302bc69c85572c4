"""Axes with names, the room that labels need, and maps with square cells."""

import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from .theme import CHARACTER, Theme, cut, labels, room_for_colorbar

_LINE = 1.25  # from line to line, in font sizes
_SLANT = 60  # degrees, of labels above or below a chart
_BOTTOM = 10  # pixels below a map whose labels are above it


def room(strings: Sequence[str], theme: Theme, *, title: bool = False, slanted: bool = False) -> float:
    """Pixels that labels need beside an axis (if `slanted`, above or below it); `title` adds room for an axis title."""
    across = max((width_of(cut(string), theme) for string in strings), default=0)
    needed = across * math.sin(math.radians(_SLANT)) + theme.scaled(16) if slanted else across + 14
    return needed + (theme.scaled(26) if title else 0)


def width_of(string: str, theme: Theme) -> float:
    """Return a string's approximate width in pixels; East Asian characters and emoji are twice as wide as others."""
    n_characters = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in string)
    return n_characters * theme.font_size * CHARACTER


def shortened(strings: Sequence[str], width: float, theme: Theme) -> list[str]:
    """Return the strings, with the ends cut of those that are wider than `width` pixels."""
    return [string if width_of(string, theme) <= width else _beginning(string, width, theme) for string in strings]


def _beginning(string: str, width: float, theme: Theme) -> str:
    while string and width_of(string + "…", theme) > width:
        string = string[:-1]
    return string + "…"


def labels_that_fit(length: float, theme: Theme, *, slanted: bool = False) -> int:
    """Return how many labels, one line each, fit along an axis of `length` pixels: at least 1."""
    line = theme.font_size * _LINE
    return max(1, int(length / (line / math.sin(math.radians(_SLANT)) if slanted else line)))


def label_step(n_labels: int, length: float, theme: Theme, *, slanted: bool = False) -> int:
    """Return n, where every nth label fits along an axis of `length` pixels."""
    return math.ceil(n_labels / labels_that_fit(length, theme, slanted=slanted))


def named_axis(names: Sequence[str], theme: Theme, length: float, *, slanted: bool = False) -> dict[str, Any]:
    """An integer axis with a name for every number, such as layers or parts; only every nth if they have no room.

    `length` is the axis in pixels. Hover shows all names.
    """
    step = label_step(len(names), length, theme, slanted=slanted)
    shown = labels(names)
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [name if number % step == 0 else "" for number, name in enumerate(shown)],
        "range": [-0.5, len(names) - 0.5],
        "showgrid": False,
        "zeroline": False,
        **({"tickangle": -_SLANT} if slanted else {}),
    }


def token_axis(
    strings: Sequence[str], theme: Theme, length: float, *, slanted: bool = False, pooled: int = 1
) -> dict[str, Any]:
    """An integer axis that shows tokens: equal tokens stay apart, and hover shows the token too.

    `length` is the axis in pixels. If the labels have no room, `labelalias` names the numbers, so that Plotly thins
    them out, and shows more of them when the user zooms in. Where `pooled` tokens share a cell, hover shows the first.
    """
    fitting = labels_that_fit(length, theme, slanted=slanted)
    slant = {"tickangle": -_SLANT} if slanted else {}
    if len(strings) <= fitting and pooled == 1:
        return named_axis(strings, theme, length, slanted=slanted)
    names = labels(strings)
    alias = {str(position): name for position, name in enumerate(names)}
    alias |= {f"{position + 0.5:g}": " " for position in range(-1, len(strings))}  # no label between two tokens
    if pooled > 1:
        centres = ((first, first + (pooled - 1) / 2) for first in range(0, len(strings), pooled))
        alias |= {f"{centre:g}": f"{names[first]} …" for first, centre in list(centres)}
    return {
        "labelalias": alias,
        "nticks": fitting,
        "range": [-0.5, len(strings) - 0.5],
        "showgrid": False,
        "zeroline": False,
        "exponentformat": "none",
        **slant,
    }


def legend(names: Sequence[str], theme: Theme, *, beside: float) -> dict[str, Any]:
    """The part of a layout that names lines or bars above the chart, with the room that they need.

    `beside` is the width of the margins in pixels.
    """
    across, rows, used = max(1.0, theme.width - beside), 1, 0.0
    for name in names:
        width = width_of(name, theme) + 60  # with its symbol
        rows, used = (rows, used + width) if used + width <= across else (rows + 1, width)
    return {
        "top": theme.font_size * 1.5 * rows + 14,
        "showlegend": True,
        "legend": {
            "orientation": "h",
            "y": 1.0,
            "yanchor": "bottom",
            "x": 0,
            "traceorder": "normal",
            "font": {"size": theme.font_size},
            "itemclick": False if len(names) == 1 else "toggle",
        },
    }


def frame(x: float, y: float, across: float, down: float, color: str) -> dict[str, Any]:
    """A rectangle around cells, from its upper left corner."""
    return {"type": "rect", "x0": x, "y0": y, "x1": x + across, "y1": y + down, "line": {"color": color, "width": 3}}


def squares(
    n_across: int, n_down: int, theme: Theme, *, left: float, top: float, right: float, largest: float = 44
) -> dict[str, Any]:
    """The part of a layout that makes a map's cells square, as large as the room allows, up to `largest` pixels."""
    across, down = theme.width - left - right, theme.height - top - _BOTTOM
    side = max(0.1, min(across / n_across, down / n_down, theme.scaled(largest)))
    return {
        "height": top + _BOTTOM + side * n_down,
        "left": left,
        "top": top,
        "right": max(right, theme.width - left - side * n_across),
        "bottom": _BOTTOM,
    }


def token_squares(
    strings: Sequence[str], theme: Theme, *, across: str = "", down: str = "", pooled: int = 1
) -> dict[str, Any]:
    """The part of a layout for a map of every two tokens, with square cells and the first token on top.

    `across` and `down` are the titles of the axes. `pooled` is as in `token_axis`.
    """
    n_tokens = len(strings)
    place = squares(
        n_tokens,
        n_tokens,
        theme,
        left=room(strings, theme, title=bool(down)),
        top=room(strings, theme, title=bool(across), slanted=True),
        right=room_for_colorbar(theme),
        largest=max(44, 180 / n_tokens),  # the titles need some room even for one token
    )
    length = length_of(place)
    down = down if width_of(down, theme) <= length else ""
    above = token_axis(strings, theme, length, slanted=True, pooled=pooled)
    beside = token_axis(strings, theme, length, pooled=pooled)
    return {
        **place,
        "xaxis": above | {"side": "top", "title": across},
        "yaxis": beside | {"range": [n_tokens - 0.5, -0.5], "title": down},
    }


def length_of(place: dict[str, Any]) -> float:
    """Return the height of a map inside its margins, in pixels."""
    return float(place["height"] - place["top"] - place["bottom"])


def cells(
    click: str, n_across: int, n_down: int, *, step: float = 1, first: int = 0, n_heads: int | None = None, **more: Any
) -> dict[str, Any]:
    """The part of a layout that lets users choose a cell, by mouse or keyboard (see `gptviz/ui/assets/cells.js`).

    `click` says what a cell stands for: the token of its "row" or "column", or the "head" whose layer is the row; with
    "" nothing can be chosen. The first cell is at 0, and the next ones follow at each `step`. The first token is at
    position `first` of the text. Only the first `n_heads` columns are heads (default: all). `more` is passed on. It is
    one string, because Plotly would take an object for a change and draw the chart twice.
    """
    heads = n_across if n_heads is None else n_heads
    told = {"click": click, "across": n_across, "down": n_down, "step": step, "first": first, "heads": heads}
    return {"meta": json.dumps(told | more)} if click else {}
