"""Attention: one head in several readings, all heads at once, and heads found by what they do and what they cause."""

from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from gptviz import charts
from gptviz.analysis.heads import all_head_scores, all_tiles, ov_effect, rollout_to
from gptviz.analysis.logit_attribution import frozen_scale, pushed_tokens
from gptviz.analysis.prediction import foreseen_token
from gptviz.experiments.head_ablation import Replacement, head_effects
from gptviz.numerics.head_kinds import repeated_random_ids
from gptviz.numerics.readings import strongest, value_weighted, without_first
from gptviz.numerics.tiles import largest_of_squares, pool_factor
from gptviz.tokens import END_OF_TEXT
from gptviz.trace import Array
from gptviz.ui import descriptions, sentences, settings, state, widgets, work
from gptviz.ui.fragments import fragment
from gptviz.ui.links import head_link, note
from gptviz.ui.markdown import code
from gptviz.ui.page import About, name_tab
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.settings import AttentionView, HeadScore, Reading
from gptviz.ui.tables import table_of_links, tables
from gptviz.ui.view import View

CELLS_SHOWN = 512  # on each side of the map: the million cells of 1,024 tokens keep a browser busy for seconds
LINES_SHOWN = 40  # tokens; for a longer text, a window around the chosen one
RANDOM_TOKENS = 50
MOST_WORK = 3e11  # parameters times tokens: a pass that nobody asked for must be short
VIEWS = {AttentionView.ONE: "One head", AttentionView.ALL: "All heads", AttentionView.FINDER: "Finder"}
READINGS = {
    Reading.WEIGHTS: ("Attention weights", "Each row sums to 1."),
    Reading.ROW: (
        "Each row to its own largest",
        "Each row is divided by its largest attention weight, so that rows without a favourite show their order too.",
    ),
    Reading.WITHOUT_FIRST: (
        "Without the first position",
        "The attention weight on the first position is left out, and the rest of each row sums to 1 again.",
    ),
    Reading.VALUE: (
        "Value-weighted",
        "[[Attention weight]] times the length of what it moves, |v W_O|, as it counts in the stream "
        "(Kobayashi et al. 2020).",
    ),
    Reading.ROLLOUT: (
        "Rollout up to this layer",
        "Where the information at a position came from, through all heads of all layers up to this one; "
        "half of each step is the shortcut (Abnar and Zuidema 2020).",
    ),
    Reading.SCORES: ("Attention scores before the softmax", "Query times key over √head_dim, before mask and softmax."),
}
KINDS = {
    HeadScore.PREVIOUS_TOKEN: (
        "Previous token",
        "Mean attention weight on the token just before (TransformerLens, head_detector).",
    ),
    HeadScore.CURRENT_TOKEN: ("Current token", "Mean attention weight on the token itself."),
    HeadScore.FIRST_TOKEN: ("First token (sink)", "Mean attention weight on the first position (Xiao et al. 2023)."),
    HeadScore.DUPLICATE_TOKEN: (
        "Duplicate token",
        "Mean attention weight on earlier copies of the token (TransformerLens).",
    ),
    HeadScore.INDUCTION: (
        "Induction, this text",
        "Mean attention weight on what followed an earlier copy (Olsson et al. 2022).",
    ),
    HeadScore.INDUCTION_RANDOM: (
        "Induction, repeated random tokens",
        "The same on a random sequence and its repetition.",
    ),
    HeadScore.ENTROPY: ("Entropy", "How spread out the attention weights are: 0 is all on one token, 1 is all alike."),
    HeadScore.DISTANCE: ("Mean distance", "How many tokens back the head looks."),
}

ABOUT = About(
    "Attention",
    "Attention",
    "Each [[head]] lets every token gather from itself and the tokens before it. A row shows how one token (the "
    "[[query]]) spreads its attention over the tokens it may look at (the [[keys|Key]]): its "
    "[[attention weights|Attention weight]] sum "
    "to 1.",
)


def show(view: View) -> None:
    """Draw the page."""
    show_attention(view)


@fragment
def show_attention(view: View) -> None:
    """Draw the choice of a view, and the view."""
    view_column, *columns = st.columns([2.2, 1.2, 1.2, 1.3, 1.8], vertical_alignment="bottom")
    with view_column:
        shown = widgets.choice(st.segmented_control, settings.VIEW, "View", VIEWS)
    if shown == AttentionView.ONE:
        show_head(view, columns)
    elif shown == AttentionView.ALL:
        show_all(view)
    else:
        show_finder(view)


# --- one head ----------------------------------------------------------------------------------


def show_head(view: View, columns: list[DeltaGenerator]) -> None:
    """Draw the pickers, the two pictures and the chosen token's tables: everything that depends on the head."""
    layer_column, head_column, token_column, reading_column = columns
    layer, head = widgets.layer(layer_column, view), widgets.head(head_column, view)
    name_tab(ABOUT, f"L{layer}H{head}")
    token = widgets.position(token_column, view.strings)
    reading = widgets.selectbox(
        reading_column, settings.READING, "Reading", list(READINGS), format_func=lambda reading: READINGS[reading][0]
    )
    n_tokens = len(view.tokens)
    map_column, lines_column = st.columns([5, 3])
    with map_column:
        show_picture(attention_map, view, across=5 / 8)
        note(READINGS[Reading(reading)][1])
        if n_tokens > CELLS_SHOWN and reading != Reading.SCORES:
            factor = cells_per_side(n_tokens)
            st.caption(f"Each cell is the largest of {factor} × {factor} tokens; the lines and tables have every one.")
    with lines_column:
        show_picture(attention_lines, view, across=3 / 8)
        if n_tokens > LINES_SHOWN:
            first = first_line(n_tokens, token)
            last = first + LINES_SHOWN - 1
            st.caption(f"Lines between positions {first} and {last}: choose another token to see the rest.")
    sentence = sentences.on_head(view, layer, head, token)
    place = st.empty()
    place.html(f"<p>{sentence}</p>")
    show_chosen(view, layer, head, token)
    widgets.folded(settings.Fold.SINK, "Why does so much attention go to the first token?", show_sink)
    if view.engine.n_parameters * n_tokens <= MOST_WORK:
        place.html(f"<p>{sentence} {sentences.on_absence(view, layer, head, token)}</p>")


@picture("attention-map", "One head's attention", settings.LAYER, settings.HEAD, settings.TOKEN, settings.READING)
def attention_map(view: View, layer: int, head: int, token: int, reading: str) -> Chart:
    """One head's heat map, in a reading."""
    values = read(view, reading, layer, head)
    told = on_map(values, view.strings, token, reading)
    alt = f"Head {head} of layer {layer}. {READINGS[Reading(reading)][0]}: {told}."
    if reading == Reading.SCORES:
        draw_scores = partial(
            charts.token_pair_map,
            values,
            view.strings,
            what="attention score",
            masked=True,
            down="query: looking",
            across="key: looked at",
        )
        return Chart(draw_scores, alt)
    factor = cells_per_side(len(view.tokens))
    highest = float(np.nanmax(values)) if reading == Reading.VALUE else 1.0
    what = {Reading.VALUE: "weight × length", Reading.ROW: "share of largest"}.get(Reading(reading), "attention weight")
    draw = partial(
        charts.attention_map,
        largest_of_squares(values, factor),
        view.strings,
        chosen=token,
        what=what,
        highest=highest or 1.0,
        pooled=factor,
    )
    return Chart(draw, alt)


def on_map(values: Array, strings: Sequence[str], token: int, reading: str) -> str:
    """Return what is largest in a head's map; in the chosen row, if the reading makes every row as large."""
    if reading == Reading.SCORES:
        return descriptions.extreme_pairs(descriptions.past(values), strings)
    if reading in (Reading.ROW, Reading.WITHOUT_FIRST):
        names = descriptions.placed(strings)
        return f"from {names[token]}, largest {descriptions.largest(names, values[token])}"
    return descriptions.largest_weight(values, strings)


@picture(
    "attention-lines", "One head's attention as lines", settings.LAYER, settings.HEAD, settings.TOKEN, settings.READING
)
def attention_lines(view: View, layer: int, head: int, token: int, reading: str) -> Chart:
    """One head's attention as lines; for a long text, only a window of it."""
    own = reading in (Reading.WITHOUT_FIRST, Reading.ROLLOUT)
    pattern = read(view, reading if own else Reading.WEIGHTS, layer, head)
    first = first_line(len(view.tokens), token)
    window = slice(first, first + LINES_SHOWN)
    shown, strings = np.nan_to_num(pattern[window, window]), view.strings[window]
    names = descriptions.placed(strings, first)
    largest = descriptions.largest(names[: token - first + 1], shown[token - first, : token - first + 1])
    return Chart(
        partial(charts.attention_lines, shown, strings, chosen=token, first=first),
        f"Lines from query to key. From {names[token - first]}, the largest weights: {largest}.",
    )


def read(view: View, reading: str, layer: int, head: int) -> Array:
    """Return a head's pattern in a reading: [query, key]."""
    trace = view.trace()
    match Reading(reading):
        case Reading.WEIGHTS:
            return trace["pattern", layer][head]
        case Reading.ROW:
            pattern = trace["pattern", layer][head]
            return pattern / pattern.max(axis=-1, keepdims=True)
        case Reading.WITHOUT_FIRST:
            return without_first(trace["pattern", layer][head])
        case Reading.VALUE:
            return value_weighted(trace["pattern", layer], trace["v", layer], trace.weights.w_o(layer))[head]
        case Reading.ROLLOUT:
            return view.computed(rollout_to, trace, layer).astype(np.float32)
        case Reading.SCORES:
            return trace["attn_scores", layer][head]


def cells_per_side(n_tokens: int) -> int:
    """Return how many tokens share a cell of the map, on each side."""
    return -(-n_tokens // CELLS_SHOWN)


def first_line(n_tokens: int, token: int) -> int:
    """Return the first position in the window of the lines."""
    return max(0, min(token - LINES_SHOWN // 2, n_tokens - LINES_SHOWN))


def show_chosen(view: View, layer: int, head: int, token: int) -> None:
    """Show what the chosen token attends to, what attends to it, and what the head would write from it (OV circuit)."""
    trace = view.trace()
    pattern = trace["pattern", layer][head]
    scale = float(frozen_scale(trace["resid_post", view.config["n_layers"] - 1][token]))
    pushed = pushed_tokens(ov_effect(trace.weights, layer, head, trace["v", layer][token, head], scale), k=8)
    tables(
        {
            "What {} attends to": strongest(pattern[token, : token + 1], view.strings),
            "What attends to {}": strongest(pattern[token:, token], view.strings, first=token),
            "Looking at {}, this head pushes up": pushed[:8],
            "Looking at {}, this head pushes down": pushed[:7:-1],
        },
        view.strings[token],
    )
    note(
        "What a head pushes is the token's value through the output projection, the final norm and the output head "
        "(the [[OV circuit]], Elhage et al. 2021): logits that it changes directly, at an attention weight of 1."
    )


def show_sink() -> None:
    """Explain the attention sink, with the switch that shows it."""
    st.markdown(
        "The attention weights of a row must sum to 1, also when a head finds nothing to gather. Training made the "
        "first position a place to leave them: its values are short, so looking there moves next to nothing, as "
        "the value-weighted reading shows (Xiao et al. 2023 call it an attention sink). Put "
        f"`{END_OF_TEXT}` in front, and it becomes the sink instead of your first word."
    )
    on = state.get(settings.BOS)
    label = f"Take `{END_OF_TEXT}` away" if on else f"Put `{END_OF_TEXT}` in front"
    st.button(label, on_click=state.put, args=(settings.BOS, not on), key="switch-bos")


# --- all heads ---------------------------------------------------------------------------------


def show_all(view: View) -> None:
    """Show every head as a small map."""
    n_all = view.config["n_layers"] * view.config["n_heads"]
    factor = tile_factor(view)
    with st.spinner("Drawing every head…"):
        show_picture(all_heads, view)
    pooled = f" Each pixel is the largest attention weight of {factor} × {factor} tokens." if factor > 1 else ""
    st.caption(f"All {n_all} heads of the model on this text: layers down, heads across. Choose one to go on.{pooled}")


@picture("all-heads", "All heads", settings.LAYER, settings.HEAD)
def all_heads(view: View, layer: int, head: int) -> Chart:
    """The patterns of all heads, layers down, heads across."""
    tiles = view.computed(all_tiles, view.trace(), tile_factor(view))
    names = descriptions.heads(*tiles.shape[:2])
    on_first = descriptions.largest(names, tiles[..., 0].mean(axis=-1).ravel() / 255)
    return Chart(
        partial(charts.small_maps, tiles, chosen=(layer, head)),
        f"The maps of all {len(names)} heads. Mean of the first column, the largest: {on_first}.",
    )


def tile_factor(view: View) -> int:
    """Return how many tokens share a pixel, on each side."""
    return pool_factor(len(view.tokens), view.config["n_layers"], view.config["n_heads"])


# --- head finder -------------------------------------------------------------------------------


def show_finder(view: View) -> None:
    """Show the heads by what they do, beside what they cause."""
    with st.spinner("Scoring every head…"):
        scores = all_scores(view)
    does_column, causes_column = st.columns(2, gap="large")
    with does_column:
        st.header("What they do")
        kind = widgets.selectbox(
            st.container(),
            settings.HEAD_SCORE,
            "Colour by",
            list(KINDS),
            format_func=lambda kind: KINDS[kind][0],
            help="\n\n".join(f"**{name}**: {about}" for name, about in KINDS.values()),
        )
        st.caption(KINDS[HeadScore(kind)][1])
        if not show_picture(head_scores, view, across=1 / 2, taken=22):
            st.info("This text has no token to score: for this kind a token must occur twice.", icon=":material/info:")
    with causes_column:
        show_causes(view)
    show_strongest(scores)


def all_scores(view: View) -> pd.DataFrame:
    """Return every head's scores on this text, and its induction score on a repeated random sequence."""
    n_random = min(RANDOM_TOKENS, view.config["context_length"] // 2)
    random = View(view.model_name, view.engine.tokenizer.tokens(repeated_random_ids(n_random)))
    scores, on_random = (side.computed(all_head_scores, side.trace()) for side in (view, random))
    return scores.assign(**{HeadScore.INDUCTION_RANDOM: on_random[HeadScore.INDUCTION]})


@picture("scores", "Heads by what they do", settings.LAYER, settings.HEAD, settings.HEAD_SCORE)
def head_scores(view: View, layer: int, head: int, kind: str) -> Chart | None:
    """One score of every head; None if the text has no token to score."""
    values = all_scores(view)[kind].to_numpy().reshape(view.config["n_layers"], view.config["n_heads"])
    if np.isnan(values).all():
        return None
    limits = None if kind == HeadScore.DISTANCE else (0, 1)
    name = KINDS[HeadScore(kind)][0]
    return Chart(
        partial(charts.head_grid, values, what=name, limits=limits, chosen=(layer, head)),
        f"{name}, of every head. Largest: {descriptions.largest(descriptions.heads(*values.shape), values.ravel())}.",
    )


def show_causes(view: View) -> None:
    """Show what happens without each head, measured only on demand."""
    st.header("What they cause")
    position = widgets.position(st.container(), view.strings, "After token")
    token = foreseen_token(view.trace(), position)
    why = "the most probable token" if position + 1 == len(view.tokens) else "what the text goes on with"
    replacement = widgets.choice(
        st.segmented_control,
        settings.REPLACEMENT,
        "Switched off by",
        widgets.REPLACEMENTS,
        help="What takes the place of the head's output z: zero, or its mean over this text.",
    )
    name = code(view.engine.tokenizer.tokens([token]).strings[0])
    st.caption(f"Change of the log-probability of {name} ({why}) when one head alone is off. Below 0: it helped.")
    question = view.trace(), position, token, cast(Replacement, replacement)
    asked = st.button("Measure all heads", key="measure", type="primary")
    if asked or work.is_done(view, head_effects, *question):
        head_effects(*question, run=work.behind_bar(view, "Heads switched off:"))
        show_picture(head_causes, view, across=1 / 2, taken=22)


@picture("causes", "Heads by what they cause", settings.LAYER, settings.HEAD, settings.TOKEN, settings.REPLACEMENT)
def head_causes(view: View, layer: int, head: int, token: int, replacement: str) -> Chart:
    """The change of a token's log-probability without each head, in nats."""
    question = view.trace(), token, foreseen_token(view.trace(), token), cast(Replacement, replacement)
    grid = head_effects(*question, run=view.run_portions)
    change = descriptions.extremes(descriptions.heads(*grid.shape), grid.ravel())
    return Chart(
        partial(charts.head_grid, grid, what="nats", signed=True, chosen=(layer, head)),
        f"Change of the log-probability without each head, in nats: {change}.",
    )


def show_strongest(scores: pd.DataFrame) -> None:
    """Show the strongest heads of each kind, each with its menu."""
    st.header("The strongest heads of each kind")
    rows = {}
    for kind, (name, _) in KINDS.items():
        best = scores.sort_values(kind, ascending=False, kind="stable").head(4)
        if not best[kind].isna().all():
            heads = zip(best["layer"], best["head"], best[kind], strict=True)
            rows[name] = [f"{head_link(layer, head)} {score:.2f}" for layer, head, score in heads]
    table_of_links("kind", ("first", "second", "third", "fourth"), rows)
    previous, induction = scores[HeadScore.PREVIOUS_TOKEN].max(), scores[HeadScore.INDUCTION_RANDOM].max()
    if previous < 0.2 or induction < 0.1:
        st.caption("This model has no clear previous-token or induction head: its best scores are low.")
