"""Compare: two texts, or two models, side by side."""

from dataclasses import replace
from functools import partial

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from streamlit.delta_generator import DeltaGenerator

import gptviz
from gptviz import charts
from gptviz.analysis.next_tokens import compare_next_tokens
from gptviz.analysis.prediction import prediction_table
from gptviz.numerics.comparison import kl_divergence
from gptviz.trace import Array
from gptviz.ui import chips, descriptions, models, settings, state, widgets
from gptviz.ui.fragments import fragment
from gptviz.ui.markdown import code, plain
from gptviz.ui.page import About
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.view import View

TWIN = "untrained-twin"
MAPS_SHOWN = 128  # tokens; for longer texts, the maps show the first ones
SIDES = ("first", "second")
OTHER = (settings.OTHER_MODEL, settings.OTHER_TEXT, settings.SAME_TEXT, settings.BOS)

ABOUT = About(
    "Compare",
    "Compare",
    "The text and model on the left, and **another text or another model**: the same questions to both. The "
    "[[untrained twin]] has the same shape and random weights: what it lacks is what training brought.",
)


def show(view: View) -> None:
    """Draw the page."""
    show_comparison(view)


@fragment
def show_comparison(view: View) -> None:
    """Draw the choice of the other side, and everything that depends on it."""
    other_column, next_column = st.columns([2, 3], gap="medium")
    with other_column:
        choose_other(view)
        other = other_side(view, *state.values(OTHER))
        tell_what_is_left_out(other)
        with st.spinner("Running the other side…"):
            other.trace()
        if other == view:
            st.info("Both sides are the same so far: type another text, or choose another model.")
    names = names_of(view, other)
    with next_column:
        show_next(view, other)
    show_tokens(view, other, names)
    show_surprisal(view, other, names)
    show_heads(view, other, names)


# --- the two sides -----------------------------------------------------------------------------


def choose_other(view: View) -> None:
    """Let the user choose the other text and the other model."""
    widgets.entry(
        st.text_area,
        settings.OTHER_TEXT,
        "Other text",
        placeholder="the same text",
        height=90,
        disabled=state.get(settings.SAME_TEXT),
        help="Empty: the same text.",
    )
    widgets.entry(st.toggle, settings.SAME_TEXT, "The same text on both sides")
    choose_other_model(st.container(), view)
    st.button("Trained against untrained", on_click=against_twin, type="primary", key="twin-button")


def choose_other_model(place: DeltaGenerator, view: View) -> None:
    """Let the user pick the other model. If it cannot be loaded, show why and go back to the same model."""
    here = [name for name in models.names() if models.on_disk(name) and name != view.model_name]
    names = {"": f"the same: {view.model_name}", TWIN: f"untrained twin of {view.model_name}"}
    name = widgets.selectbox(
        place,
        settings.OTHER_MODEL,
        "Other model",
        ["", TWIN, *here],
        format_func=lambda name: names.get(name) or models.title(name),
        help="Those that are on this machine.",
    )
    try:
        with st.spinner("Loading the other model…"):
            engine = model_side(view, name).engine
    except (gptviz.WeightsError, gptviz.ConfigError) as error:
        st.error(plain(str(error)), icon=":material/error:")
        state.put(settings.OTHER_MODEL, "")
        return
    for note in engine.notes if name not in ("", TWIN) else ():
        st.info(plain(note), icon=":material/info:")


def against_twin() -> None:
    """Compare with the untrained twin on the same text."""
    state.put(settings.SAME_TEXT, True)
    state.put(settings.OTHER_MODEL, TWIN)


def model_side(view: View, other_model: str) -> View:
    """Return the view of the other model on the same text."""
    if other_model == TWIN:
        return replace(view, is_untrained=True)
    return replace(view, model_name=other_model, n_heads=0) if other_model else view


def other_side(view: View, other_model: str, other_text: str, same_text: bool, bos: bool) -> View:
    """Return the view of the other text and model, cut to that model's context length."""
    other = model_side(view, other_model)
    is_other = bool(other_text) and not same_text
    tokens = other.engine.tokenize(other_text, bos=bos) if is_other else view.tokens
    return replace(other, tokens=tokens[: other.config["context_length"]])


def tell_what_is_left_out(other: View) -> None:
    """Say how many tokens of the other text do not fit."""
    text, same = state.get(settings.OTHER_TEXT), state.get(settings.SAME_TEXT)
    longest = other.config["context_length"]
    n_tokens = len(other.engine.tokenize(text, bos=state.get(settings.BOS))) if text and not same else 0
    if n_tokens > longest:
        st.caption(f"The other model takes {longest:,} tokens: the last {n_tokens - longest:,} are left out.")


def names_of(view: View, other: View) -> tuple[str, str]:
    """Return the names of the two sides."""
    if (other.model_name, other.is_untrained) != (view.model_name, view.is_untrained):
        return view.engine.name, other.engine.name
    return ("this text", "other text") if view.tokens.ids != other.tokens.ids else ("this", "the same")


def show_tokens(view: View, other: View, names: tuple[str, str]) -> None:
    """Show both texts as tokens. If they have the same number of tokens, those that differ are framed."""
    ids = view.tokens.ids, other.tokens.ids
    as_long = len(ids[0]) == len(ids[1])
    differing = [at for at, pair in enumerate(zip(*ids, strict=False)) if as_long and pair[0] != pair[1]]
    for column, side, name in zip(st.columns(2), (view, other), names, strict=True):
        with column:
            st.markdown(f"**{code(name)}**, {len(side.tokens):,} tokens")
            chips.token_strip(side.tokens, marked=differing)


# --- next token --------------------------------------------------------------------------------


def show_next(view: View, other: View) -> None:
    """Show both predictions after the last token."""
    show_picture(next_pair, view, across=3 / 5, taken=19)
    logits = last_logits(view, other)
    first, second = st.columns(2)
    first.metric(
        "KL divergence",
        f"{kl_divergence(*logits):.4f} nats",
        border=True,
        help="How much the second prediction misses of the first, over the whole vocabulary; 0 is the same.",
    )
    second.metric(
        "KL divergence, the other way round",
        f"{kl_divergence(*reversed(logits)):.4f} nats",
        border=True,
        help="How much the first misses of the second.",
    )


def last_logits(view: View, other: View) -> tuple[Array, Array]:
    """Return both sides' logits after the last token, for the ids that both models know: [id] each."""
    first, second = (side.trace().logits_at(-1) for side in (view, other))
    n_ids = min(len(first), len(second))  # a model may have added tokens
    return first[:n_ids], second[:n_ids]


@picture("next-pair", "Next tokens of both sides", *OTHER)
def next_pair(view: View, other_model: str, other_text: str, same_text: bool, bos: bool) -> Chart:
    """The most probable next tokens of both sides."""
    other = other_side(view, other_model, other_text, same_text, bos)
    table = compare_next_tokens(*last_logits(view, other), k=7)
    return Chart(
        partial(charts.next_token_pair, table, names_of(view, other)),
        f"Next tokens on the first and the second side: {descriptions.changes(table, *SIDES)}.",
    )


# --- surprisal ---------------------------------------------------------------------------------


def show_surprisal(view: View, other: View, names: tuple[str, str]) -> None:
    """Show how little each side expected each token."""
    st.header("Surprisal of every token")
    for column, side, name in zip(st.columns(2), (view, other), names, strict=True):
        with st.spinner("Reading the predictions at every position…"):
            mean = side.computed(prediction_table, side.trace())["surprisal_nats"].mean()
        shown = "one token: none" if np.isnan(mean) else f"{mean:.3f} nats ({mean / np.log(2):.2f} bits)"
        column.metric(f"Mean surprisal: {code(name)}", shown, border=True)
    if view.tokens.ids == other.tokens.ids:
        show_picture(surprisal_pair, view)
        return
    for column, variant in zip(st.columns(2), SIDES, strict=True):
        with column:
            show_picture(surprisal_side, view, variant=variant, across=1 / 2)


def surprisal_bits(side: View) -> NDArray[np.float64]:
    """Return the surprisal of each token of a side, in bits: [pos], NaN for the first."""
    table = side.computed(prediction_table, side.trace())
    return np.append(np.nan, table["surprisal_bits"].to_numpy(float)[:-1])


@picture("surprisal-pair", "Surprisal of both sides", *OTHER)
def surprisal_pair(view: View, other_model: str, other_text: str, same_text: bool, bos: bool) -> Chart | None:
    """Both sides' surprisal over the text; None if they have different texts."""
    other = other_side(view, other_model, other_text, same_text, bos)
    if view.tokens.ids != other.tokens.ids:
        return None
    both = surprisal_bits(view), surprisal_bits(other)
    first, second = (descriptions.largest(descriptions.placed(view.strings), bits) for bits in both)
    return Chart(
        partial(charts.token_lines, dict(zip(names_of(view, other), both, strict=True)), view.strings, what="bits"),
        f"Surprisal in bits, the largest on the first side: {first}; on the second: {second}.",
    )


@picture("surprisal", "Surprisal of one side", *OTHER, variants=SIDES)
def surprisal_side(view: View, other_model: str, other_text: str, same_text: bool, bos: bool, variant: str) -> Chart:
    """One side's surprisal, on a scale that both sides share."""
    sides = dict(zip(SIDES, (view, other_side(view, other_model, other_text, same_text, bos)), strict=True))
    side = sides[variant]
    both = [surprisal_bits(one) for one in sides.values()]
    bits = surprisal_bits(side)
    return Chart(
        partial(charts.surprisal_bars, side.strings, bits, beside=both),
        f"Surprisal in bits on the {variant} side, the largest: "
        f"{descriptions.largest(descriptions.placed(side.strings), bits)}.",
    )


# --- one head ----------------------------------------------------------------------------------


def show_heads(view: View, other: View, names: tuple[str, str]) -> None:
    """Show one head's maps, and their difference if the positions match."""
    st.header("One head")
    layer_column, head_column, _ = st.columns([1, 1, 3])
    widgets.number(layer_column, settings.LAYER, "Layer", 0, fewest(view, other, "n_layers") - 1)
    widgets.number(head_column, settings.HEAD, "Head", 0, fewest(view, other, "n_heads") - 1)
    for column, variant, name in zip(st.columns(2), SIDES, names, strict=True):
        with column:
            st.markdown(f"**{code(name)}**")
            show_picture(head_side, view, variant=variant, across=1 / 2)
    if max(len(view.tokens), len(other.tokens)) > MAPS_SHOWN:
        st.caption(f"The maps show the first {MAPS_SHOWN} tokens.")
    if len(view.tokens) != len(other.tokens):
        st.caption("The two sides have different numbers of tokens, so the maps have no difference cell by cell.")
        return
    st.markdown(f"**Difference: {code(names[1])} minus {code(names[0])}**")
    with st.columns([3, 2])[0]:
        show_picture(head_difference, view, across=3 / 5)


def fewest(view: View, other: View, what: str) -> int:
    """Return how many layers or heads both models have."""
    return min(int(dict(side.config)[what]) for side in (view, other))  # type: ignore[call-overload]


def shown_pattern(side: View, layer: int, head: int) -> Array:
    """Return the attention weights of the tokens that the maps show: [query, key]."""
    return side.trace()["pattern", layer][head, :MAPS_SHOWN, :MAPS_SHOWN]


@picture("head", "One head on one side", settings.LAYER, settings.HEAD, *OTHER, variants=SIDES)
def head_side(
    view: View, layer: int, head: int, other_model: str, other_text: str, same_text: bool, bos: bool, variant: str
) -> Chart:
    """One head's attention weights on one side."""
    other = other_side(view, other_model, other_text, same_text, bos)
    layer, head = min(layer, fewest(view, other, "n_layers") - 1), min(head, fewest(view, other, "n_heads") - 1)
    side = view if variant == "first" else other
    pattern, strings = shown_pattern(side, layer, head), side.strings[:MAPS_SHOWN]
    return Chart(
        partial(charts.attention_map, pattern, strings),
        f"Attention weights of L{layer}H{head} on the {variant} side: {descriptions.largest_weight(pattern, strings)}.",
    )


@picture("head-difference", "One head, second minus first", settings.LAYER, settings.HEAD, *OTHER)
def head_difference(
    view: View, layer: int, head: int, other_model: str, other_text: str, same_text: bool, bos: bool
) -> Chart | None:
    """The difference of the two maps; None if the texts differ in their number of tokens."""
    other = other_side(view, other_model, other_text, same_text, bos)
    if len(view.tokens) != len(other.tokens):
        return None
    layer, head = min(layer, fewest(view, other, "n_layers") - 1), min(head, fewest(view, other, "n_heads") - 1)
    difference = shown_pattern(other, layer, head) - shown_pattern(view, layer, head)
    strings = other.strings[:MAPS_SHOWN]
    extremes = descriptions.extreme_pairs(descriptions.past(difference), strings)
    return Chart(
        partial(
            charts.token_pair_map,
            difference,
            strings,
            what="attention weight",
            limit=1.0,
            masked=True,
            down="query",
            across="key",
        ),
        f"Attention weights of L{layer}H{head}, second side minus first: {extremes}.",
    )
