"""Treemap of a model's parameters."""

import pandas as pd
import plotly.graph_objects as go

from .theme import LIGHT, Theme, figure, plotted


def parameter_treemap(tree: pd.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """Treemap with each component's area proportional to its parameters; a click zooms in.

    `tree` has one row per component: id, parent ("" for the whole model), label, parameters.
    """
    return figure(
        plotted(
            "treemap",
            ids=tree["id"],
            parents=tree["parent"],
            labels=tree["label"],
            values=tree["parameters"],
            branchvalues="total",
            maxdepth=2,
            texttemplate="%{label}<br>%{value:,}<br>%{percentRoot:.1%}",
            hovertemplate="<b>%{label}</b><br>%{value:,} parameters<br>%{percentRoot:.2%} of all<extra></extra>",
            marker={"colors": [_color(id, theme) for id in tree["id"]], "line": {"width": 1.5}},
            textfont={"size": theme.font_size},
            pathbar={"thickness": theme.scaled(26)},
        ),
        theme,
        height=theme.scaled(420),
        left=10,
        bottom=10,
        uniformtext={"minsize": theme.font_size, "mode": "hide"},  # hover has the names of the small ones
    )


def _color(id: str, theme: Theme) -> str:
    """One colour for embeddings and the output head, one for attention, one for the rest; the root is transparent."""
    if id == "model":
        return "rgba(0,0,0,0)"
    if "emb" in id or id == "out_head":
        return theme.accent
    return theme.second if ".att" in id else theme.main
