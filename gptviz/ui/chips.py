"""Tokens as coloured chips. The content of every token is escaped."""

import html
from collections.abc import Collection, Iterator, Sequence

import streamlit as st

from gptviz.tokens import Tokens

# Okabe and Ito's hues, translucent, so that they work on white and on black.
_COLORS = ("86,180,233", "230,159,0", "0,158,115", "204,121,167", "240,228,66", "213,94,0")
_BLOCK = '<div style="font-size:1.2rem;line-height:1.75;overflow-wrap:anywhere;">{}</div>'


def token_strip(tokens: Tokens, *, marked: Collection[int] = (), titles: Sequence[str] = ()) -> None:
    """Draw the tokens as coloured chips in reading order. Hovering shows position, id and bytes, or `titles`.

    Tokens at the positions `marked` are framed.
    """
    st.html(_BLOCK.format("".join(_chips(tokens, marked, 0, titles))))


def written(text: str, continuation: Tokens, *, first: int) -> None:
    """Draw a plain text, then the model's continuation as chips. The continuation begins at position `first`."""
    plain = f'<span style="white-space:pre-wrap;">{html.escape(text)}</span>'
    st.html(_BLOCK.format(plain + "".join(_chips(continuation, (), first, ()))))


def pieces(parts: Sequence[bytes]) -> None:
    """Draw byte strings as chips side by side, such as the pieces of a word while it is merged."""
    token_strip(Tokens(tuple(range(len(parts))), tuple(parts)), titles=[f"bytes {part.hex(' ')}" for part in parts])


def _chips(tokens: Tokens, marked: Collection[int], first: int, titles: Sequence[str]) -> Iterator[str]:
    for offset, (id, raw, string) in enumerate(tokens):
        title = titles[offset] if titles else f"position {first + offset} · id {id} · bytes {raw.hex(' ')}"
        color = _COLORS[(first + offset) % len(_COLORS)]
        outline = "outline:2px solid currentColor;" if first + offset in marked else ""
        yield (
            f'<span title="{html.escape(title)}" style="background:rgba({color},0.33);{outline}'
            'border-radius:5px;padding:2px 3px;margin:2px 1px;display:inline-block;white-space:pre-wrap;">'
            f"{html.escape(string)}</span>" + ("<br>" if raw.endswith(b"\n") else "")
        )
