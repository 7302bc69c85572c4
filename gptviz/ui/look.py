"""How pages look: their style, and the chart colours of the browser's light or dark mode."""

import streamlit as st

from gptviz.charts import DARK, LIGHT, Theme
from gptviz.ui.assets import asset


def page_style() -> None:
    """Change what differs from Streamlit's usual pages."""
    st.html(f"<style>{asset('page.css')}</style>")


def follow_browser() -> None:
    """Draw the page again when the browser changes to light or dark, or comes back to the server.

    It also lets Enter show a text.
    """
    component = st.components.v2.component("follow_browser", js=asset("follow_browser.js"))
    drawn = st.context.theme.type or "light"
    component(key="follow-browser", data={"drawn": drawn}, on_mode_change=lambda: None, on_back_change=lambda: None)


def theme() -> Theme:
    """The chart colours of the mode that the browser shows."""
    return DARK if st.context.theme.type == "dark" else LIGHT
