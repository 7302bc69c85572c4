"""Tokens as coloured chips. The content of every token is escaped."""

import html
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from gptviz.tokens import Tokens, characters
from gptviz.ui.links import as_attributes
from gptviz.ui.settings import TOKEN

# Okabe and Ito's hues, translucent, so that they work on white and on black.
_COLORS = ("86,180,233", "230,159,0", "0,158,115", "204,121,167", "240,228,66", "213,94,0")
_BLOCK = '<div class="chips">{}</div>'
_DARKEST = 55  # percent of the colour: the token must stay legible on it


def token_strip(tokens: Tokens, *, marked: Collection[int] = (), titles: Sequence[str] = ()) -> None:
    """Draw the tokens as coloured chips in reading order. Hovering shows position, id and bytes, or `titles`.

    Tokens at the positions `marked` are framed.
    """
    st.html(_BLOCK.format("".join(_chips(tokens, marked, 0, titles))))


def shaded_strip(tokens: Tokens, values: NDArray[np.floating] | None, titles: Sequence[str], chosen: int) -> str:
    """Return the tokens as chips that can be clicked to choose a token; the `chosen` one is framed.

    `values` is [pos]: the largest absolute value gets the strongest colour, negative values another one, and NaN none.
    Without values, the colours only tell neighbours apart. `titles` has one line or more per token, shown on hover.
    """
    shades = [_hue(position) for position in range(len(tokens))] if values is None else _shades(values)
    chips = (
        f'<button class="chip" {as_attributes({TOKEN: position})} title="{html.escape(title)}" '
        f'{"aria-current=true" if position == chosen else ""} style="background:{shade}">{html.escape(string)}</button>'
        + ("<br>" if raw.endswith(b"\n") else "")
        for position, ((_, raw, string), title, shade) in enumerate(zip(tokens, titles, shades, strict=True))
    )
    return _BLOCK.format("".join(chips))


def about(tokens: Tokens) -> list[str]:
    """Return what a token is, for each token: its position, id and bytes, and the character that it is a part of."""
    return [
        _place(position, id, raw) + (f" · part of {whole}" if whole else "")
        for position, ((id, raw, _), whole) in enumerate(zip(tokens, characters(tokens), strict=True))
    ]


def written(text: str, continuation: Tokens, *, first: int) -> None:
    """Draw a plain text, then the model's continuation as chips. The continuation begins at position `first`."""
    plain = f'<span style="white-space:pre-wrap;">{html.escape(text)}</span>'
    st.html(_BLOCK.format(plain + "".join(_chips(continuation, (), first, ()))))


def pieces(parts: Sequence[bytes]) -> None:
    """Draw byte strings as chips side by side, such as the pieces of a word while it is merged."""
    token_strip(Tokens(tuple(range(len(parts))), tuple(parts)), titles=[f"bytes {part.hex(' ')}" for part in parts])


def _chips(tokens: Tokens, marked: Collection[int], first: int, titles: Sequence[str]) -> Iterator[str]:
    for offset, (id, raw, string) in enumerate(tokens):
        title = titles[offset] if titles else _place(first + offset, id, raw)
        frame = "outline:2px solid currentColor;" if first + offset in marked else ""
        yield (
            f'<span class="chip" title="{html.escape(title)}" style="{frame}background:{_hue(first + offset)}">'
            f"{html.escape(string)}</span>" + ("<br>" if raw.endswith(b"\n") else "")
        )


def _place(position: int, id: int, raw: bytes) -> str:
    return f"position {position} · id {id} · bytes {raw.hex(' ')}"


def _hue(position: int) -> str:
    return f"rgba({_COLORS[position % len(_COLORS)]},0.33)"


def _shades(values: NDArray[np.floating]) -> list[str]:
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max(initial=0)) or 1.0
    return [_shade(value / largest) if np.isfinite(value) else "transparent" for value in values.tolist()]


def _shade(share: float) -> str:
    """Return a CSS colour for a share from -1 to 1."""
    color = "main" if share >= 0 else "accent"
    return f"color-mix(in srgb, var(--{color}) {_DARKEST * abs(share):.0f}%, transparent)"
