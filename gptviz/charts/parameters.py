"""Where a model's parameters are."""

import pandas as pd
import plotly.graph_objects as go

from .theme import FONT_SIZE, LIGHT, Theme, figure, plotted


def parameter_treemap(tree: pd.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """Each part as an area that grows with its parameters; a click looks inside.

    `tree` has one row per part: id, parent ("" for the whole), label, parameters.
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
            textfont={"size": FONT_SIZE},
            pathbar={"thickness": 26},
        ),
        theme,
        height=420,
        left=10,
        bottom=10,
    )


def _color(id: str, theme: Theme) -> str:
    """Embeddings, blocks and the rest apart; inside of a block, attention and feed-forward apart."""
    if id == "model":
        return "rgba(0,0,0,0)"
    if "emb" in id or id == "out_head":
        return theme.accent
    return theme.second if ".att" in id else theme.main
