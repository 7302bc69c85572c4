"""A bare page for comparison: a picker and charts that are there already; the picker says which of two sets shows.

`streamlit run constant_page.py -- FILE`, where FILE is JSON: two lists of Plotly figures.
"""

import json
import sys
from pathlib import Path

import plotly.graph_objects as go
import streamlit as st

st.set_page_config(layout="wide")


@st.cache_resource
def figures() -> list[list[go.Figure]]:
    """Two sets of figures, so that every step of the picker has something new to draw."""
    sets = json.loads(Path(sys.argv[1]).read_text())
    return [[go.Figure(figure, skip_invalid=True) for figure in figures] for figures in sets]


@st.fragment
def show() -> None:
    """The picker and the charts."""
    number = st.number_input("Layer", 0, 1000, 0)
    for at, figure in enumerate(figures()[int(number) % 2]):
        st.plotly_chart(figure, key=f"chart {at}", theme=None)


show()
