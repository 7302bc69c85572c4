"""Attention: one head as a heat map and as lines, and what a chosen token attends to."""

import streamlit as st

from gptviz import charts
from gptviz.analysis.attention import strongest
from gptviz.ui import look, shared, state, widgets

LINES_SHOWN = 40  # tokens: a longer text shows a window around the chosen one
WEIGHT = st.column_config.ProgressColumn("weight", format="%.4f", min_value=0, max_value=1)

view = shared.begin(
    "Attention",
    "Each **head** lets every token gather from itself and the tokens before it. A row shows how one token (the "
    "**query**) spreads its attention over the tokens it may look at (the **keys**): its weights sum to 1.",
)


def choose_clicked_token() -> None:
    """A click on a token of the line view chooses it."""
    position = state.clicked("attention-lines")
    if position is not None:
        state.choose_position(int(position), len(view.tokens))


@st.fragment
def show_head() -> None:
    """Pickers, the two pictures, and the chosen token's tables: all that changes with another head."""
    trace = view.trace()
    strings = view.tokens.strings
    layer_column, head_column, token_column = st.columns([1, 1, 2])
    layer = widgets.number(layer_column, state.LAYER, "Layer", 0, view.engine.config["n_layers"] - 1)
    head = widgets.number(head_column, state.HEAD, "Head", 0, view.engine.config["n_heads"] - 1)
    chosen = widgets.position(token_column, strings)
    pattern = trace["pattern", layer][head]

    map_column, lines_column = st.columns([3, 2])
    with map_column:
        look.chart(
            charts.attention_map(pattern, strings, chosen=chosen, theme=look.theme()),
            key="attention-map",
            alt=f"Attention weights of head {head} in layer {layer}: queries down, keys across.",
        )
    with lines_column:
        first = max(0, min(chosen - LINES_SHOWN // 2, len(strings) - LINES_SHOWN))
        window = slice(first, first + LINES_SHOWN)
        look.chart(
            charts.attention_lines(
                pattern[window, window], strings[window], chosen=chosen, first=first, theme=look.theme()
            ),
            key="attention-lines",
            alt=f"The same weights as lines from query to key; the chosen token is at position {chosen}.",
            on_click=choose_clicked_token,
        )
        if len(strings) > LINES_SHOWN:
            last = first + LINES_SHOWN - 1
            st.caption(f"Lines between positions {first} and {last}: choose another token to see the rest.")

    looks_column, looked_at_column = st.columns(2)
    with looks_column:
        st.markdown(f"##### What {look.code(strings[chosen])} attends to")
        table = strongest(pattern[chosen, : chosen + 1], strings)
        st.dataframe(table, hide_index=True, column_config={"weight": WEIGHT})
    with looked_at_column:
        st.markdown(f"##### What attends to {look.code(strings[chosen])}")
        table = strongest(pattern[chosen:, chosen], strings, first=chosen)
        st.dataframe(table, hide_index=True, column_config={"weight": WEIGHT})
    shared.finish()


show_head()
