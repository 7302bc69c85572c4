"""Attention: one head in several readings, all heads at once, and heads found by what they do and what they cause."""

import numpy as np
import pandas as pd
import streamlit as st

from gptviz import charts
from gptviz.analysis.heads import all_head_scores, all_tiles, ov_effect
from gptviz.analysis.logit_attribution import frozen_scale, pushed_tokens
from gptviz.experiments.head_ablation import Replacement, head_effects
from gptviz.numerics.head_kinds import repeated_random_ids
from gptviz.numerics.readings import rollout, strongest, value_weighted, without_first
from gptviz.numerics.tiles import largest_of_squares, pool_factor
from gptviz.tokens import END_OF_TEXT
from gptviz.trace import Array
from gptviz.ui import look, shared, state, widgets

CELLS_SHOWN = 512  # of the map's side: a million cells of 1,024 tokens keep a browser busy for seconds
LINES_SHOWN = 40  # tokens: a longer text shows a window around the chosen one
VIEWS = {"one": "One head", "all": "All heads", "finder": "Head finder"}
READINGS = {
    "weights": "Weights, as they are",
    "row": "Each row to its own largest",
    "without_first": "Without the first position",
    "value": "Value-weighted",
    "rollout": "Rollout up to this layer",
    "scores": "Scores before the softmax",
}
ABOUT_READING = {
    "weights": "Each row sums to 1.",
    "row": "Each row is divided by its largest weight, so that rows without a favourite show their order too.",
    "without_first": "The weight on the first position is left out, and the rest of each row sums to 1 again.",
    "value": "Weight times the length of what it moves, |v W_O|, as it counts in the stream (Kobayashi et al. 2020).",
    "rollout": "Where the information at a position came from, through all heads of all layers up to this one; half of "
    "each step is the shortcut (Abnar and Zuidema 2020).",
    "scores": "Query times key over √head_dim, before mask and softmax.",
}
KINDS = {
    "previous_token": ("Previous token", "Mean weight on the token just before (TransformerLens, head_detector)."),
    "current_token": ("Current token", "Mean weight on the token itself."),
    "first_token": ("First token (sink)", "Mean weight on the first position (Xiao et al. 2023)."),
    "duplicate_token": ("Duplicate token", "Mean weight on earlier copies of the token (TransformerLens)."),
    "induction": ("Induction, this text", "Mean weight on what followed an earlier copy (Olsson et al. 2022)."),
    "induction_random": ("Induction, repeated random tokens", "The same on a random sequence and its repetition."),
    "entropy": ("Entropy", "How spread out the weights are: 0 is all on one token, 1 is all alike."),
    "distance": ("Mean distance", "How many tokens back the head looks."),
}
RANDOM_TOKENS = 50

view = shared.begin(
    "Attention",
    "Each **head** lets every token gather from itself and the tokens before it. A row shows how one token (the "
    "**query**) spreads its attention over the tokens it may look at (the **keys**): its weights sum to 1.",
)
strings = view.tokens.strings
n_layers, n_heads = view.engine.config["n_layers"], view.engine.config["n_heads"]


# --- one head ----------------------------------------------------------------------------------


def choose_clicked_token() -> None:
    """A click on a token of the line view chooses it."""
    position = state.clicked("attention-lines")
    if position is not None:
        state.choose_position(int(position), len(view.tokens))


@st.fragment
def show_head() -> None:
    """Pickers, the two pictures, and the chosen token's tables: all that changes with another head."""
    layer_column, head_column, token_column, reading_column = st.columns([1, 1, 2, 2])
    layer = widgets.number(layer_column, state.LAYER, "Layer", 0, n_layers - 1)
    head = widgets.number(head_column, state.HEAD, "Head", 0, n_heads - 1)
    chosen = widgets.position(token_column, strings)
    state.one_of(state.READING, list(READINGS))
    reading_column.selectbox("Reading", list(READINGS), format_func=READINGS.__getitem__, key=state.READING.name)
    reading = state.get(state.READING)
    pattern = view.trace()["pattern", layer][head]
    values = read(reading, layer, head)

    map_column, lines_column = st.columns([3, 2])
    with map_column:
        show_map(values, reading, layer, head, chosen)
        st.caption(ABOUT_READING[reading])
        if len(strings) > CELLS_SHOWN and reading != "scores":
            factor = -(-len(strings) // CELLS_SHOWN)
            st.caption(f"Each cell is the largest of {factor} × {factor} tokens; the lines and tables have every one.")
    with lines_column:
        show_lines(values if reading in ("without_first", "rollout") else pattern, chosen)
    show_chosen(layer, head, pattern, chosen)
    shared.finish()


def read(reading: str, layer: int, head: int) -> Array:
    """The head's pattern in this reading: [query, key]."""
    trace = view.trace()
    if reading == "scores":
        return trace["attn_scores", layer][head]
    if reading == "rollout":
        return view.model.result(
            view.tokens, ("rollout", layer), lambda: rollout(trace["pattern", below] for below in range(layer + 1))
        ).astype(np.float32)
    pattern = trace["pattern", layer]
    if reading == "without_first":
        return without_first(pattern[head])
    if reading == "value":
        return value_weighted(pattern, trace["v", layer], trace.weights.w_o(layer))[head]
    if reading == "row":
        return pattern[head] / pattern[head].max(axis=-1, keepdims=True)
    return pattern[head]


def show_map(values: Array, reading: str, layer: int, head: int, chosen: int) -> None:
    """The heat map of this reading."""
    if reading == "scores":
        figure = charts.token_pair_map(
            values, strings, what="score", masked=True, down="query: looking", across="key: looked at",
            theme=look.theme(),
        )  # fmt: skip
    else:
        highest = float(np.nanmax(values)) if reading == "value" else 1.0
        what = {"value": "weight × length", "row": "share of largest"}.get(reading, "weight")
        factor = -(-len(strings) // CELLS_SHOWN)
        figure = charts.attention_map(
            largest_of_squares(values, factor), strings, chosen=chosen, what=what, highest=highest or 1.0,
            pooled=factor, theme=look.theme(),
        )  # fmt: skip
    look.chart(
        figure, key="attention-map",
        alt=f"{READINGS[reading]} of head {head} in layer {layer}: queries down, keys across.",
    )  # fmt: skip


def show_lines(pattern: Array, chosen: int) -> None:
    """The same as lines; of a long text a window."""
    first = max(0, min(chosen - LINES_SHOWN // 2, len(strings) - LINES_SHOWN))
    window = slice(first, first + LINES_SHOWN)
    look.chart(
        charts.attention_lines(
            np.nan_to_num(pattern[window, window]), strings[window], chosen=chosen, first=first, theme=look.theme()
        ),
        key="attention-lines",
        alt=f"The weights as lines from query to key; the chosen token is at position {chosen}.",
        on_click=choose_clicked_token,
    )
    if len(strings) > LINES_SHOWN:
        last = first + LINES_SHOWN - 1
        st.caption(f"Lines between positions {first} and {last}: choose another token to see the rest.")


def show_sink() -> None:
    """Three sentences on the attention sink, and the switch that shows it."""
    with st.expander("Why does so much attention go to the first token?"):
        st.markdown(
            "The weights of a row must sum to 1, also when a head finds nothing to gather. Training made the first "
            "position a place to leave them: its values are short, so looking there moves next to nothing, as the "
            "value-weighted reading shows (Xiao et al. 2023 call it an attention sink). Put "
            f"`{END_OF_TEXT}` in front, and it becomes the sink instead of your first word."
        )
        on = state.get(state.BOS)
        st.button(
            f"Take `{END_OF_TEXT}` away" if on else f"Put `{END_OF_TEXT}` in front",
            on_click=state.put, args=(state.BOS, not on), key="switch-bos",
        )  # fmt: skip


def show_chosen(layer: int, head: int, pattern: Array, chosen: int) -> None:
    """What the chosen token attends to, what attends to it, and the head's OV side: what looking at it would write."""
    trace = view.trace()
    scale = float(frozen_scale(trace["resid_post", n_layers - 1][chosen]))
    pushed = pushed_tokens(ov_effect(trace.weights, layer, head, trace["v", layer][chosen, head], scale), k=8)
    look.tables(
        {
            "What {} attends to": strongest(pattern[chosen, : chosen + 1], strings),
            "What attends to {}": strongest(pattern[chosen:, chosen], strings, first=chosen),
            "Looking at {}, this head pushes up": pushed[:8],
            "Looking at {}, this head pushes down": pushed[:7:-1],
        },
        strings[chosen],
    )
    st.caption(
        "What a head pushes is the token's value through the output projection, the final norm and the output head "
        "(the OV circuit, Elhage et al. 2021): logits that it changes directly, at a weight of 1."
    )


# --- all heads ---------------------------------------------------------------------------------


def open_clicked_head(chart: str) -> None:
    """A click on a head's map or cell opens that head."""
    clicked = state.clicked(chart)
    if clicked is not None:
        layer, head = clicked
        state.put(state.LAYER, int(layer))
        state.put(state.HEAD, int(head))
        state.put(state.VIEW, "one")


@st.fragment
def show_all() -> None:
    """Every head as a small map."""
    trace = view.trace()
    factor = pool_factor(len(trace), n_layers, n_heads)
    with st.spinner("Drawing every head…"):
        tiles = view.model.result(view.tokens, ("tiles", factor), lambda: all_tiles(trace, factor))
    st.markdown(f"All **{n_layers * n_heads} heads** of the model on this text. Click one to open it.")
    if factor > 1:
        st.caption(f"Each pixel is the largest weight of {factor} × {factor} tokens.")
    look.chart(
        charts.small_maps(tiles, chosen=chosen_head(), theme=look.theme()),
        key="all-heads",
        alt=f"The attention patterns of all {n_layers * n_heads} heads, layers down, heads across.",
        on_click=lambda: open_clicked_head("all-heads"),
    )
    leave_for_head()


def chosen_head() -> tuple[int, int]:
    """Layer and head, within this model's."""
    return int(state.within(state.LAYER, 0, n_layers - 1)), int(state.within(state.HEAD, 0, n_heads - 1))


def leave_for_head() -> None:
    """Run the whole page where a click in a fragment chose another view."""
    if state.get(state.VIEW) == "one":
        st.rerun()
    shared.finish()


# --- head finder -------------------------------------------------------------------------------


@st.fragment
def show_finder() -> None:
    """Heads by what they do, beside what they cause."""
    trace = view.trace()
    with st.spinner("Scoring every head…"):
        scores = view.model.result(view.tokens, "scores", lambda: all_head_scores(trace))
        scores = scores.assign(induction_random=random_induction())
    does_column, causes_column = st.columns(2, gap="large")
    with does_column:
        show_scores(scores)
    with causes_column:
        show_causes()
    show_table(scores)
    leave_for_head()


def random_induction() -> pd.Series:
    """Every head's induction score on a repeated random sequence."""
    n_tokens = min(RANDOM_TOKENS, view.engine.config["context_length"] // 2)
    tokens = view.engine.tokenizer.tokens(repeated_random_ids(n_tokens))
    random_trace = view.model.trace(tokens)
    return view.model.result(tokens, "scores", lambda: all_head_scores(random_trace))["induction"]


def show_scores(scores: pd.DataFrame) -> None:
    """A grid of heads coloured by the chosen score."""
    st.subheader("What they do")
    state.one_of(state.KIND_OF_HEAD, list(KINDS))
    st.selectbox(
        "Colour by", list(KINDS), format_func=lambda kind: KINDS[kind][0], key=state.KIND_OF_HEAD.name,
        help="\n\n".join(f"**{name}**: {about}" for name, about in KINDS.values()),
    )  # fmt: skip
    kind = state.get(state.KIND_OF_HEAD)
    st.caption(KINDS[kind][1])
    values = scores[kind].to_numpy().reshape(n_layers, n_heads)
    if np.isnan(values).all():
        st.info("This text has no token to score: for this kind a token must occur twice.", icon=":material/info:")
        return
    look.chart(
        charts.head_grid(
            values, what=KINDS[kind][0], limits=None if kind == "distance" else (0, 1), chosen=chosen_head(),
            theme=look.theme(),
        ),
        key="scores", alt=f"{KINDS[kind][0]} score of every head.", on_click=lambda: open_clicked_head("scores"),
    )  # fmt: skip


def show_causes() -> None:
    """A grid of heads coloured by what happens without them."""
    st.subheader("What they cause")
    chosen = widgets.position(st.container(), strings, "After token")
    trace = view.trace()
    following = view.tokens.ids[chosen + 1] if chosen + 1 < len(strings) else None
    token = int(trace.logits_at(chosen).argmax()) if following is None else following
    name = look.code(view.engine.tokenizer.tokens([token]).strings[0])
    why = "the model's first guess" if following is None else "what the text goes on with"
    state.one_of(state.REPLACEMENT, ["zero", "mean"])
    st.segmented_control(
        "Switched off by", ["zero", "mean"], key=state.REPLACEMENT.name, required=True,
        help="What takes the place of the head's output z: zero, or its mean over this text.",
    )  # fmt: skip
    replacement: Replacement = "mean" if state.get(state.REPLACEMENT) == "mean" else "zero"
    st.caption(f"Change of the log-probability of {name} ({why}) when one head alone is off. Below 0: it helped.")
    key = ("causes", chosen, token, replacement)
    if not st.button("Measure all heads", key="measure", type="primary") and not view.model.has(view.tokens, key):
        return
    bar = st.progress(0.0)
    effects = view.model.result(
        view.tokens, key,
        lambda: head_effects(
            trace, chosen, token, replacement, lambda done, layers: bar.progress(done / layers)
        ),
    )  # fmt: skip
    bar.empty()
    look.chart(
        charts.head_grid(effects, what="nats", signed=True, chosen=chosen_head(), theme=look.theme()),
        key="causes", alt="Change of the log-probability without each head.",
        on_click=lambda: open_clicked_head("causes"),
    )  # fmt: skip


def show_table(scores: pd.DataFrame) -> None:
    """The strongest heads of each kind."""
    st.subheader("The strongest heads of each kind")
    rows = []
    for kind, (name, _) in KINDS.items():
        best = scores.sort_values(kind, ascending=False, kind="stable").head(4)
        if not best[kind].isna().all():
            heads = [f"L{row.layer}H{row.head}  {getattr(row, kind):.2f}" for row in best.itertuples()]
            rows.append({"kind": name, "first": "", "second": "", "third": "", "fourth": ""} | dict(
                zip(("first", "second", "third", "fourth"), heads, strict=False)))  # fmt: skip
    st.dataframe(pd.DataFrame(rows), hide_index=True)
    previous, induction = scores["previous_token"].max(), scores["induction_random"].max()
    if previous < 0.2 or induction < 0.1:
        st.caption("This model has no clear previous-token or induction head: its best scores are low.")


state.one_of(state.VIEW, list(VIEWS))
st.segmented_control(
    "View", list(VIEWS), format_func=VIEWS.__getitem__, key=state.VIEW.name, required=True,
    label_visibility="collapsed",
)  # fmt: skip
{"one": show_head, "all": show_all, "finder": show_finder}[state.get(state.VIEW)]()
if state.get(state.VIEW) == "one":
    show_sink()
