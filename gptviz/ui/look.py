"""The look of the pages: their style, and the chart colours for the browser's light or dark mode."""

from dataclasses import replace

import streamlit as st

from gptviz.charts import DARK, LIGHT, Theme
from gptviz.ui import state
from gptviz.ui.assets import asset
from gptviz.ui.settings import SIZE, Size

_LOWEST = 18  # rem; a chart may be this high even in a low window
_KEY = "follow-browser"


def page_style() -> None:
    """Apply the style that differs from Streamlit's default pages."""
    colors = theme()
    chosen = f"html:root {{font-size: {root_size():.1f}px; --main: {colors.main}; --accent: {colors.accent}}}"
    st.html(f"<style>{chosen}\n{asset('page.css')}</style>")


def follow_browser() -> None:
    """Draw the page again when the browser's mode or window changes, or when it reconnects to the server.

    It also makes Enter show the typed text, Back lead to the page before, and the frame's buttons work; and a chart in
    full screen keeps its title and controls.
    """
    st.components.v2.component("full_screen", js=asset("full_screen.js"))(key="full-screen")
    component = st.components.v2.component("follow_browser", js=asset("follow_browser.js"))
    component(
        key=_KEY,
        data={"drawn": st.context.theme.type or "light", "window": list(state.window())},
        on_mode_change=lambda: None,
        on_back_change=lambda: None,
        on_window_change=lambda: state.put_window(state.told(_KEY, "window")),
    )


def root_size() -> float:
    """Return the size of ordinary text on a page in pixels, which is a `rem` in the stylesheet."""
    match state.get(SIZE):
        case Size.STAGE:
            return max(18, 0.0247 * state.window().height)
        case Size.LARGE:
            return 21
        case _:
            return 17


def theme(across: float = 1.0, taken: float = 14.0) -> Theme:
    """Return the look of a chart, for the browser's mode and window.

    `across` is the chart's share of the page's width; a narrow page has one column. `taken` is the height, in rem, that
    the window needs for other things than the chart.
    """
    window, rem = state.window(), root_size()
    n_gaps = 0 if window.is_narrow else max(0, round(1 / across) - 1)  # between as many columns as these, 1 rem each
    width = window.width if n_gaps == 0 else across * (window.width - n_gaps * rem)
    colors = DARK if st.context.theme.type == "dark" else LIGHT
    height = max(window.height - taken * rem, _LOWEST * rem)
    return replace(colors, font_size=round(0.9 * rem), width=int(width), height=int(height))
