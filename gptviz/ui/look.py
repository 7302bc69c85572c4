"""How pages look: their style, and the chart colours of the browser's light or dark mode."""

import streamlit as st

from gptviz.charts import DARK, LIGHT, Theme
from gptviz.ui.assets import asset


def page_style() -> None:
    """Change what differs from Streamlit's usual pages."""
    st.html(f"<style>{asset('page.css')}</style>")


def follow_mode() -> None:
    """Draw the page again when the browser goes from light to dark, or back.

    Charts get their colours from the server, which hears of a new mode only with the next run. So a change of mode asks
    for one: the charts would be dark on dark until then.
    """
    component = st.components.v2.component("follow_mode", js=asset("follow_mode.js"))
    component(key="follow-mode", data={"drawn": st.context.theme.type or "light"}, on_mode_change=lambda: None)


def theme() -> Theme:
    """The chart colours of the mode that the browser shows."""
    return DARK if st.context.theme.type == "dark" else LIGHT
