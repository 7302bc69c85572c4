"""The look of the pages: their style, and the chart colours for the browser's light or dark mode."""

import streamlit as st

from gptviz.charts import DARK, LIGHT, Theme
from gptviz.ui.assets import asset


def page_style() -> None:
    """Apply the style that differs from Streamlit's default pages."""
    st.html(f"<style>{asset('page.css')}</style>")


def follow_browser() -> None:
    """Draw the page again when the browser switches to light or dark mode, or reconnects to the server.

    It also makes Enter show the typed text, and Back lead to the page before.
    """
    component = st.components.v2.component("follow_browser", js=asset("follow_browser.js"))
    drawn = st.context.theme.type or "light"
    component(key="follow-browser", data={"drawn": drawn}, on_mode_change=lambda: None, on_back_change=lambda: None)


def theme() -> Theme:
    """Return the chart colours for the browser's current mode."""
    return DARK if st.context.theme.type == "dark" else LIGHT
