"""Gradients: what training would change, why there are shortcuts, and which tokens a prediction rests on."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from streamlit.delta_generator import DeltaGenerator

import gptviz
from gptviz import charts
from gptviz.analysis.stream import similarity_of_tokens
from gptviz.experiments.gradients import all_shortcuts, gradient_table
from gptviz.experiments.portions import Run
from gptviz.experiments.token_attribution import Integrated, gradient_times_input, integrated_gradients
from gptviz.interventions import Part
from gptviz.ui import descriptions, settings, state, widgets, work
from gptviz.ui.fragments import fragment
from gptviz.ui.markdown import code, plain
from gptviz.ui.page import About
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.settings import AttributionMethod, ParameterGroup
from gptviz.ui.tables import verdict
from gptviz.ui.view import View

LARGEST_TWIN = 4_000_000_000  # bytes: the largest untrained model that is made beside the first
GROUPS = {
    ParameterGroup.ATTENTION: "attention",
    ParameterGroup.FEED_FORWARD: "MLP",
    ParameterGroup.NORM1: "LayerNorm 1",
    ParameterGroup.NORM2: "LayerNorm 2",
}
METHODS = {AttributionMethod.INTEGRATED: "Integrated gradients", AttributionMethod.TIMES_INPUT: "Gradient × input"}

ABOUT = About(
    "Gradients",
    "Gradients",
    "Training follows the [[gradient]] of the loss: how the mean surprisal of this text's own next tokens would "
    "change with every parameter. Nothing is trained here; the gradient is measured, and the model stays as it is.",
)


def show(view: View) -> None:
    """Draw the page."""
    if len(view.tokens) > 1:
        show_depth(view)
    else:
        st.caption("One token alone has no next token, so there is no loss to measure: add a second.")
    show_attribution(view)


# --- over depth --------------------------------------------------------------------------------


@fragment
def show_depth(view: View) -> None:
    """Show gradients and the similarity of tokens over depth, with and without shortcuts."""
    group_column, twin_column = st.columns([3, 2], vertical_alignment="bottom")
    with group_column:
        group = widgets.choice(
            st.segmented_control,
            settings.GROUP,
            "Parameters",
            GROUPS,
            help="The length of the gradient with respect to all parameters of this kind in a Transformer block.",
        )
    beside = choose_twin(twin_column, view)
    for name, (side, off) in sides(view, beside).items():
        with st.spinner(f"Going back through {name}…"):
            measured(side, off, group)
    left, right = st.columns(2)
    with left:
        st.markdown("**Length of the gradient, layer by layer**")
        show_picture(gradient_lengths, view, across=1 / 2, taken=16)
    with right:
        st.markdown("**How alike all tokens' vectors are:** their mean cosine similarity")
        show_picture(token_likeness, view, across=1 / 2, taken=16)
    st.dataframe(depth_table(view, beside, group), hide_index=True)
    st.markdown(
        "In a network without normalisation, gradients shrink with every layer that has no shortcut. GPT-2 normalises "
        "before each sub-layer, which keeps their length alive. What the shortcuts keep here is **what sets tokens "
        "apart**: without them, each attention mixes the tokens until all vectors point the same way (Dong et al. "
        "2021), and the loss says what is left of the prediction."
    )


def twin_fits(view: View) -> bool:
    """Return whether an untrained model of the same size may be made beside this one."""
    return 4 * view.engine.n_parameters <= LARGEST_TWIN


def choose_twin(place: DeltaGenerator, view: View) -> bool:
    """Draw the switch for the untrained twin. Return whether it is on and there is room for the twin."""
    fits = twin_fits(view)
    asked = widgets.entry(
        place.toggle,
        settings.TWIN,
        "Beside an untrained model of the same size",
        disabled=not fits,
        help="Random weights, before any training." if fits else "This model is too large for a second one.",
    )
    if not asked or not fits:
        return False
    try:
        with st.spinner("Making an untrained model…"):
            _ = replace(view, is_untrained=True).model
    except gptviz.WeightsError as error:  # not enough memory for a second model
        st.error(plain(str(error)), icon=":material/error:")
        state.put(settings.TWIN, False)
        return False
    return True


def sides(view: View, twin: bool) -> dict[str, tuple[View, tuple[Part, ...]]]:
    """Return what is compared: names -> a view, and the parts that are off."""
    untrained, off = replace(view, is_untrained=True), all_shortcuts(view.config["n_layers"])
    found: dict[str, tuple[View, tuple[Part, ...]]] = {"this model": (view, ()), "without shortcuts": (view, off)}
    if twin and twin_fits(view):
        found |= {"untrained": (untrained, ()), "untrained, without": (untrained, off)}
    return found


def measured(view: View, off: tuple[Part, ...], group: str) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return the loss, the lengths of the group's gradients [layer], and the similarity of tokens [n_layers + 1]."""
    table = view.computed(gradient_table, view.engine, view.tokens, off)
    in_blocks = table[table["layer"].notna() & (table["group"] == group)].sort_values("layer")
    likeness = view.computed(similarity_of_tokens, view.trace(off))
    return float(table["loss"].iloc[0]), in_blocks["norm"].to_numpy(float), likeness


def depth_table(view: View, twin: bool, group: str) -> pd.DataFrame:
    """One row per side: loss, how much of the gradient reaches the first layer, and the similarity at the end."""
    rows = []
    for name, (side, off) in sides(view, twin).items():
        loss, gradients, likeness = measured(side, off, group)
        rows.append(
            {
                "model": name,
                "loss (nats)": loss,
                "gradient of the first layer over the last's": gradients[0] / gradients[-1],
                "cosine similarity of tokens at the end": likeness[-1],
            }
        )
    return pd.DataFrame(rows).round(4)


@picture("gradients", "Gradients over depth", settings.GROUP, settings.TWIN)
def gradient_lengths(view: View, group: str, twin: bool) -> Chart | None:
    """The length of each layer's gradient, with and without shortcuts; None if there is only one token."""
    if len(view.tokens) == 1:
        return None
    series = {name: measured(side, off, group)[1] for name, (side, off) in sides(view, twin).items()}
    blocks = [f"layer {layer}" for layer in range(view.config["n_layers"])]
    return Chart(
        partial(charts.depth_lines, series, blocks, what="length (logarithmic scale)", logarithmic=True),
        f"Length of the gradient from the first layer to the last: {descriptions.courses(series, most=len(series))}.",
    )


@picture("likeness", "Similarity of tokens over depth", settings.TWIN)
def token_likeness(view: View, twin: bool) -> Chart | None:
    """Mean cosine similarity of the tokens' vectors, with and without shortcuts; None if there is only one token."""
    if len(view.tokens) == 1:
        return None
    series = {
        name: side.computed(similarity_of_tokens, side.trace(off)) for name, (side, off) in sides(view, twin).items()
    }
    depths = ["embeddings", *(f"layer {layer}" for layer in range(view.config["n_layers"]))]
    return Chart(
        partial(charts.depth_lines, series, depths, what="cosine similarity"),
        f"Mean cosine similarity of the tokens from the embeddings to the last layer: "
        f"{descriptions.courses(series, most=len(series))}.",
    )


# --- which tokens count ------------------------------------------------------------------------


@fragment
def show_attribution(view: View) -> None:
    """Show which tokens of the text a prediction rests on."""
    st.header("Which tokens does a prediction rest on?")
    position_column, target_column, method_column = st.columns(3)
    position = widgets.position(position_column, view.strings, "After token")
    best = int(view.trace().logits_at(position).argmax())
    token = widgets.token(target_column, settings.TARGET, "Prediction", best, placeholder="most probable token")
    with method_column:
        method = widgets.choice(st.segmented_control, settings.METHOD, "Method", METHODS)
    name = code(view.engine.tokenizer.tokens([token]).strings[0])
    if method == AttributionMethod.INTEGRATED:
        show_completeness(view, position, token)
        about = (
            f"What each token's embedding adds to the log-probability of {name}, on the way from no token embeddings "
            "to the text's (Sundararajan et al. 2017)."
        )
    else:
        about = (
            f"The slope of the log-probability of {name} when a token's embedding fades: a rough measure, which does "
            "not add up."
        )
    with st.spinner("Going back through the model…"):
        show_picture(token_attribution, view)
    st.caption(about + " Above 0: the token made it more probable.")


def integrated(view: View, position: int, token: int, run: Run | None = None) -> Integrated:
    """Return the integrated gradients of the text's trace."""
    return integrated_gradients(view.trace(), position, token, run=run or view.run_portions)


def show_completeness(view: View, position: int, token: int) -> None:
    """Show whether the contributions add up to the model's own difference."""
    found = integrated(view, position, token, run=work.behind_bar(view, "Going back through the model…"))
    verdict(
        found.error <= 0.01,
        f"Sum {found.contributions.sum():+.4f} nats, the model's own difference {found.difference:+.4f}: "
        f"{found.error:.2%} off, in {found.n_steps} steps",
    )


@picture("saliency", "Which tokens a prediction rests on", settings.TOKEN, settings.TARGET, settings.METHOD)
def token_attribution(view: View, token: int, target: str, method: str) -> Chart:
    """How much each token of the text counts for the prediction."""
    trace = view.trace()
    predicted = widgets.first_token(target, int(trace.logits_at(token).argmax()))
    if method == AttributionMethod.INTEGRATED:
        contributions = integrated(view, token, predicted).contributions
    else:
        contributions = view.computed(gradient_times_input, trace, token, predicted)
    shown = np.where(np.arange(len(view.tokens)) <= token, contributions, np.nan)
    name = descriptions.token(view.engine.tokenizer.tokens([predicted]).strings[0])
    extremes = descriptions.extremes(descriptions.placed(view.strings), shown)
    return Chart(
        partial(charts.value_bars, shown, view.strings, what="nats"),
        f"How much each token counts for the prediction {name}, in nats: {extremes}.",
    )
