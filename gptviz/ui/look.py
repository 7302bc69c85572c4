"""How things are drawn: charts in the mode's colours, tokens as coloured chips."""

import html
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from gptviz.charts import DARK, LIGHT, Theme
from gptviz.tokens import Tokens

# Okabe and Ito's hues, see-through, so that they work on white and on black.
_CHIP_COLORS = ("86,180,233", "230,159,0", "0,158,115", "204,121,167", "240,228,66", "213,94,0")
_JOINER = "\u2060"  # takes no room, and joins no words that were apart
_BLOCK = '<div style="font-size:1.2rem;line-height:1.75;overflow-wrap:anywhere;">{}</div>'


# Streamlit leaves a hand's breadth around a page: on a projector the charts want it. The rest spares drawing charts
# twice: the scrollbar keeps its place when a page is short for a moment, and a chart's width is a whole number of
# pixels, since Plotly reads a fraction to three digits and is then told another.
_STYLE = """<style>
[data-testid=stMainBlockContainer] {padding: 4.5rem 3rem 3rem;}
[data-testid=stMain] {scrollbar-gutter: stable;}
[data-testid=stFullScreenFrame] {width: round(down, 100%, 1px);}
.tables {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1rem 2rem;}
.tables div {overflow-x: auto;}
.tables p {font-weight: 600; margin: 0 0 0.3rem;}
.tables table {width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums;}
.tables th {font-weight: 400; opacity: 0.75;}
.tables th, .tables td {padding: 0.15rem 0.6rem; border-bottom: 1px solid rgba(128,128,128,0.3); white-space: pre-wrap;}
</style>"""


def page_style() -> None:
    """How pages differ from Streamlit's usual ones."""
    st.html(_STYLE)


# Charts have their colours from the server, which hears of another mode (in the menu, or the computer's own at
# dusk) with the next run only: until then they would be dark on dark. So a change asks for that run.
# A server that was away, or forgot a session that slept, knows no fragment, and would not answer what a person does in
# one: so a connection that comes back asks for a run, too, which brings all that the page shows, and for a second one,
# which brings what was done during the first.
# In a text area Enter is a new line, and a new line is a token: here Enter shows the text, as Ctrl+Enter does in
# Streamlit, and Shift+Enter is the new line. While an input method composes, Enter is its own.
_FOLLOW = """
export default function ({ data, setTriggerValue }) {
    const app = document.querySelector("[data-testid=stApp]")
    const look = () => {
        const [red, green, blue] = getComputedStyle(app).backgroundColor.match(/[0-9.]+/g).map(Number)
        const mode = red + green + blue < 384 ? "dark" : "light"
        if (mode === data.drawn) window.gptvizAsked = null
        else if (mode !== window.gptvizAsked) setTriggerValue("mode", (window.gptvizAsked = mode))
        const { testConnectionState: connection, testScriptState: script } = app.dataset
        if (connection !== "CONNECTED") window.gptvizAsks = 2
        else if (window.gptvizAsks && script === "notRunning") setTriggerValue("back", window.gptvizAsks--)
    }
    clearInterval(window.gptvizLook)  // of the run before
    window.gptvizLook = setInterval(look, 300)
    if (window.gptvizEnter) return
    window.gptvizEnter = event => {
        const isPlain = event.key === "Enter" && !event.shiftKey && !event.ctrlKey && !event.metaKey && !event.altKey
        if (!isPlain || event.isComposing || !event.target.matches?.("[data-testid=stTextArea] textarea")) return
        event.preventDefault()
        event.stopPropagation()
        event.target.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", ctrlKey: true, bubbles: true }))
    }
    document.addEventListener("keydown", window.gptvizEnter, true)
}
"""


def follow_browser() -> None:
    """Draw the page again when the browser goes from light to dark, or back, and when it comes back to the server; and
    let Enter show a text."""
    component = st.components.v2.component("follow_browser", js=_FOLLOW)
    component(
        key="follow-browser", data={"drawn": st.context.theme.type or "light"}, on_mode_change=lambda: None,
        on_back_change=lambda: None,
    )  # fmt: skip


def theme() -> Theme:
    """The chart colours of the mode that the browser shows."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def chart(figure: go.Figure, *, key: str, alt: str, on_click: Callable[[], None] | None = None) -> Any:
    """Show a chart. `alt` says in one sentence what it shows; with `on_click` its points can be clicked."""
    options = {
        "displaylogo": False,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {"format": "svg", "filename": f"gptviz-{key}"},
    }
    if on_click is None:
        return st.plotly_chart(figure, theme=None, key=key, config=options, alt=alt)
    # What Streamlit would set after the first drawing, and draw again.
    figure.layout.clickmode, figure.layout.dragmode = "event+select", "pan"
    return st.plotly_chart(
        figure, theme=None, key=key, config=options, alt=alt, on_select=on_click, selection_mode="points"
    )


def token_strip(tokens: Tokens, *, marked: Collection[int] = (), titles: Sequence[str] = ()) -> None:
    """The tokens as coloured chips in reading order; hover shows position, id and bytes, or `titles`.

    Those at the positions `marked` are framed.
    """
    st.html(_BLOCK.format("".join(_chips(tokens, marked, 0, titles))))


def written(text: str, continuation: Tokens, *, first: int) -> None:
    """A text, plain, and behind it the model's continuation as chips; it begins at position `first`."""
    plain = f'<span style="white-space:pre-wrap;">{html.escape(text)}</span>'
    st.html(_BLOCK.format(plain + "".join(_chips(continuation, (), first, ()))))


def _chips(tokens: Tokens, marked: Collection[int], first: int, titles: Sequence[str]) -> Iterator[str]:
    for offset, (id, raw, string) in enumerate(tokens):
        title = titles[offset] if titles else f"position {first + offset} · id {id} · bytes {raw.hex(' ')}"
        color = _CHIP_COLORS[(first + offset) % len(_CHIP_COLORS)]
        outline = "outline:2px solid currentColor;" if first + offset in marked else ""
        yield (
            f'<span title="{html.escape(title)}" style="background:rgba({color},0.33);{outline}'
            'border-radius:5px;padding:2px 3px;margin:2px 1px;display:inline-block;white-space:pre-wrap;">'
            f"{html.escape(string)}</span>" + ("<br>" if raw.endswith(b"\n") else "")
        )


def tables(titled: Mapping[str, pd.DataFrame], token: str = "") -> None:
    """A few short tables beside each other, each under a title, in which {} stands for the token.

    As one piece of HTML: it is there with the charts, where `st.dataframe`, drawn on a canvas, keeps a browser busy
    for as long as a chart. What is long, to be sorted or searched, is for that.
    """
    st.html(_tables(titled, token))


def _tables(titled: Mapping[str, pd.DataFrame], token: str) -> str:
    parts = (
        f"<div><p>{html.escape(title).format(f'<code>{html.escape(token)}</code>')}</p>"
        f"{table.to_html(index=False, border=0, justify='left', float_format='{:.4f}'.format)}</div>"
        for title, table in titled.items()
    )
    return f'<div class="tables">{"".join(parts)}</div>'


def code(string: str) -> str:
    """A token's string as Markdown code, whatever is in it."""
    string = string.replace(":material/", f":{_JOINER}material/")  # Streamlit replaces it in code too
    fence = "`" * (string.count("`") + 1)
    pad = " " if "`" in string else ""
    return f"{fence}{pad}{string}{pad}{fence}"


def plain(text: str) -> str:
    """A sentence with names of files or tensors in it, as Markdown that shows it as it is.

    Shortcodes, addresses and arrows are looked for when the backslashes are gone, and a list's sign where the
    text begins: an invisible character breaks them.
    """
    text = re.sub(r"[\\`*_{}\[\]<>#~$&|]", r"\\\g<0>", " ".join(text.split()))
    breaks = r":(?=\S)|@|www(?=\.)|^(?=\W|\d)|(?<=\s)(?=\\?[<>~-])"
    return re.sub(breaks, rf"\g<0>{_JOINER}", text, flags=re.IGNORECASE)


def pieces(parts: Sequence[bytes]) -> None:
    """Byte strings as chips side by side, such as the pieces of a word while it is merged."""
    token_strip(Tokens(tuple(range(len(parts))), tuple(parts)), titles=[f"bytes {part.hex(' ')}" for part in parts])
