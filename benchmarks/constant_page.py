"""A bare page for comparison: a widget and ready-made charts; each run shows the next set of charts.

`streamlit run constant_page.py -- FILE KIND`, where FILE is JSON: a list of lists of Plotly figures, one list per run.
KIND is "picker" (a number field, in a fragment with the charts), "text" (a text field for the whole page), or "torch"
(no widget, but torch is imported).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

st.set_page_config(layout="wide")


@st.cache_resource
def sets() -> list[list[go.Figure]]:
    """Return the lists of figures, built only once."""
    return [[built(figure) for figure in figures] for figures in json.loads(Path(sys.argv[1]).read_text())]


def built(figure: dict[str, Any]) -> go.Figure:
    """Build a figure as a typical page would: NumPy arrays, and a width set by the browser."""
    for trace in figure["data"]:
        if isinstance(trace.get("z"), list) and isinstance(trace["z"][0], list):
            trace["z"] = np.array(trace["z"], dtype=np.float32)
    layout = {name: value for name, value in figure["layout"].items() if name not in ("width", "autosize")}
    made = go.Figure(figure["data"], layout, skip_invalid=True)
    if "template" not in layout:
        made.layout.template = None
    return made


def show_charts() -> None:
    """Show the next set of charts."""
    number = st.session_state["number"] = st.session_state.get("number", -1) + 1
    for at, figure in enumerate(sets()[number % len(sets())]):
        st.plotly_chart(figure, key=f"chart {at}", theme=None)


@st.fragment
def show_picker() -> None:
    """Show a number field and the charts that depend on it."""
    st.number_input("Layer", 0, 1000, 0)
    show_charts()


if sys.argv[2] == "picker":
    show_picker()
elif sys.argv[2] == "text":
    st.sidebar.text_area("Text")
    show_charts()
else:
    import torch  # noqa: F401

    show_charts()
