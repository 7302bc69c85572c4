"""Charts of experiments: parts switched off, predictions before and after, and the spread over runs."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from .attention import attention_map
from .axes import cells, legend, named_axis, room
from .theme import LIGHT, Theme, escaped, figure, labels, largest, plotted, span


def switch_board(
    parts: NDArray[np.str_], columns: Sequence[str], off: Collection[str], *, theme: Theme = LIGHT
) -> go.Figure:
    """Grid with a clickable cell per part, one row per layer; the parts in `off` are coloured and crossed.

    `parts` is [layer, column] and holds the parts' names, which are the cells' customdata.
    """
    n_layers, n_columns = parts.shape
    is_off = np.isin(parts, list(off))
    layers, at = np.divmod(np.arange(parts.size), n_columns)
    top = room(columns, theme, slanted=True)
    height = min(top + 10 + theme.scaled(34) * n_layers, theme.height)
    side = (height - top - 10) / n_layers
    return figure(
        [
            plotted(
                "heatmap",
                z=is_off.astype(np.uint8),
                zmin=0,
                zmax=1,
                colorscale=[[0, theme.future], [1, theme.accent]],
                showscale=False,
                xgap=3,
                ygap=3,
                hoverinfo="skip",
            ),
            plotted(
                "scatter",
                x=at,
                y=layers,
                mode="markers+text",
                text=np.where(is_off, "×", "").ravel(),
                textfont={"size": theme.font_size, "color": theme.on_accent},
                marker={"symbol": "square", "size": max(8, 0.8 * side), "color": "rgba(0,0,0,0)"},
                customdata=parts.ravel().tolist(),
                hovertemplate="<b>%{customdata}</b><br>click to switch it off or on<extra></extra>",
            ),
        ],
        theme,
        height=height,
        left=theme.scaled(58),
        right=theme.scaled(50),
        top=top,
        bottom=10,
        dragmode=False,
        **cells("part", n_columns, n_layers, parts=parts.tolist()),
        xaxis={
            **named_axis(columns, theme, theme.width - theme.scaled(108), slanted=True),
            "side": "top",
            "showline": False,
            "fixedrange": True,
        },
        yaxis={
            **named_axis([str(layer) for layer in range(n_layers)], theme, height - top - 10),
            "title": "layer",
            "range": [n_layers - 0.5, -0.5],
            "showline": False,
            "fixedrange": True,
        },
    )


def next_token_pair(table: pd.DataFrame, names: tuple[str, str], *, theme: Theme = LIGHT) -> go.Figure:
    """Two predictions as bars side by side, one row per token.

    `table` comes from `gptviz.analysis.next_tokens.compare_next_tokens`; `names` are the names of the predictions.
    """
    tokens = table["token"].tolist()
    positions = np.arange(len(table))
    height = min(theme.scaled(110 + 38 * max(3, len(table))), theme.height)
    return figure(
        [
            plotted(
                "bar",
                x=table[column],
                y=positions,
                orientation="h",
                name=escaped(name),
                marker={"color": color},
                text=labels(tokens),
                textposition="none",
                customdata=np.column_stack((table["id"], table["change"])),
                hovertemplate="<b>%{text}</b> (id %{customdata[0]})<br>probability %{x:.4f}<br>"
                "change %{customdata[1]:+.3f} nats<extra></extra>",
            )
            for column, name, color in zip(("first", "second"), names, theme.series[:2], strict=True)
        ],
        theme,
        height=height,
        left=room(tokens, theme),
        xaxis={"tickformat": ".0%", "title": "probability", "range": span(table[["first", "second"]], from_zero=True)},
        yaxis=_rows(tokens, theme, height),
        bargap=0.25,
        **legend(names, theme, beside=room(tokens, theme)),
    )


def run_spread(
    runs: NDArray[np.floating],
    evaluation: NDArray[np.floating],
    strings: Sequence[str],
    *,
    what: str,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Spread of a few numbers over runs: one row per number, one point per run, and marks for mean and evaluation.

    `runs` is [run, number]; `evaluation` [number] holds the numbers without dropout; `strings` names them.
    """
    n_runs, n_numbers = runs.shape
    rows = np.arange(n_numbers)
    offset = np.linspace(-0.28, 0.28, n_runs) if n_runs > 1 else np.zeros(1)
    height = min(theme.scaled(np.clip(110 + 32 * n_numbers, 240, 900)), theme.height)
    marks = ("mean of the runs", "evaluation, no dropout")
    return figure(
        [
            plotted(
                "scatter",
                x=runs.ravel(),
                y=(rows[None] + offset[:, None]).ravel(),
                mode="markers",
                name="one run",
                marker={"size": 6, "color": theme.main, "opacity": 0.55},
                customdata=np.repeat(np.arange(n_runs), n_numbers),
                hovertemplate=f"run %{{customdata}}<br>{what} <b>%{{x:.4f}}</b><extra></extra>",
            ),
            *(
                plotted(
                    "scatter",
                    x=values,
                    y=rows,
                    mode="markers",
                    name=name,
                    marker={"symbol": symbol, "size": size, "color": color, "line": {"width": 3, "color": color}},
                    hovertemplate=f"{name}<br>{what} <b>%{{x:.4f}}</b><extra></extra>",
                )
                for name, values, symbol, size, color in (
                    (marks[0], runs.mean(axis=0), "x-thin", 10, theme.second),
                    (marks[1], evaluation, "line-ns-open", 22, theme.accent),
                )
            ),
        ],
        theme,
        height=height,
        left=room(strings, theme),
        xaxis={"title": what, "range": span(runs, evaluation, from_zero=True)},
        yaxis=_rows(strings, theme, height),
        **legend(("one run", *marks), theme, beside=room(strings, theme)),
    )


def dropped_map(
    pattern: NDArray[np.floating], dropped: NDArray[np.floating], strings: Sequence[str], *, theme: Theme = LIGHT
) -> go.Figure:
    """A head's weights after dropout in one run: [query, key]; weights that dropout set to 0 are crossed.

    `pattern` holds the weights before dropout. Dropout scales up the weights that it keeps, so they can be above 1,
    and the colours then end at the largest.
    """
    drawn = attention_map(dropped, strings, highest=max(1.0, largest(dropped)), theme=theme)
    queries, keys = np.nonzero((dropped == 0) & (pattern > 0))
    drawn.add_trace(
        plotted(
            "scatter",
            x=keys.tolist(),
            y=queries.tolist(),
            mode="markers",
            hoverinfo="skip",
            marker={"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": theme.accent}},
        )
    )
    return drawn


def _rows(strings: Sequence[str], theme: Theme, height: float) -> dict[str, Any]:
    """An axis with one string per row, the first on top, in a chart of this height."""
    return named_axis(strings, theme, height - theme.scaled(100)) | {"range": [len(strings) - 0.5, -0.5]}
