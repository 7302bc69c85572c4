"""Gradients: what training would change, why there are shortcuts, and which tokens a prediction rests on."""

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

import gptviz
from gptviz import charts
from gptviz.analysis.stream import similarity_of_tokens
from gptviz.experiments.gradients import GROUPS, all_shortcuts, gradient_norms, gradient_table
from gptviz.experiments.token_attribution import gradient_times_input, integrated_gradients
from gptviz.interventions import Part
from gptviz.ui import look, models, shared, state, widgets
from gptviz.ui.models import LoadedModel

LARGEST_TWIN = 4_000_000_000  # bytes: a second model of this size beside the first
METHODS = {"integrated": "Integrated gradients", "times_input": "Gradient × input"}

view = shared.begin(
    "Gradients",
    "Training follows the **gradient** of the loss: how the mean surprise about this text's own next tokens would "
    "change with every parameter. Nothing is trained here; the gradient is measured, and the model stays as it is.",
)
n_layers = view.engine.config["n_layers"]
strings = view.tokens.strings


@st.fragment
def show_depth() -> None:
    """Gradients and the likeness of tokens over depth, with and without shortcuts."""
    st.subheader("With and without shortcut connections")
    group_column, twin_column = st.columns([3, 2], vertical_alignment="bottom")
    state.one_of(state.GROUP, list(GROUPS))
    with group_column:
        st.segmented_control(
            "Parameters", list(GROUPS), format_func=GROUPS.__getitem__, key=state.GROUP.name, required=True,
            help="The length of the gradient with respect to all of a block's parameters of this kind.",
        )  # fmt: skip
    sides = {("this model", "without shortcuts"): view.model} | twin(twin_column)
    gradients, likeness, rows = {}, {}, []
    for names, model in sides.items():
        for told, off in zip(names, ((), all_shortcuts(n_layers)), strict=True):
            with st.spinner(f"Going back through {told}…"):
                loss, gradients[told], likeness[told] = measured(model, off)
            rows.append(
                {
                    "model": told,
                    "mean loss (nats)": loss,
                    "gradient of the first block over the last's": gradients[told][0] / gradients[told][-1],
                    "likeness of tokens at the end": likeness[told][-1],
                }
            )
    blocks = [f"block {layer}" for layer in range(n_layers)]
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Length of the gradient, block by block**")
        look.chart(
            charts.depth_lines(
                gradients, blocks, what="length (logarithmic scale)", logarithmic=True,
                theme=look.theme(),
            ),
            key="gradients", alt="The gradient's length over the blocks, with and without shortcuts.",
        )  # fmt: skip
    with right:
        st.markdown("**How alike all tokens' vectors are:** mean cosine between them")
        look.chart(
            charts.depth_lines(likeness, ["embeddings", *blocks], what="cosine", theme=look.theme()),
            key="likeness", alt="Mean cosine between the tokens' vectors over depth, with and without shortcuts.",
        )  # fmt: skip
    st.dataframe(pd.DataFrame(rows).round(4), hide_index=True)
    st.markdown(
        "In a network without normalisation, gradients shrink with every layer that has no shortcut. GPT-2 normalises "
        "before each sub-layer, which keeps their length alive. What the shortcuts keep here is **what sets tokens "
        "apart**: without them, each attention mixes the tokens until all vectors point the same way (Dong et al. "
        "2021), and the loss says what is left of the prediction."
    )
    shared.finish()


def twin(place: st.delta_generator.DeltaGenerator) -> dict[tuple[str, str], LoadedModel]:
    """The untrained twin, where it is asked for and fits in; with its names, with and without shortcuts."""
    too_large = 4 * view.engine.n_parameters > LARGEST_TWIN
    asked = place.toggle(
        "Beside an untrained model of the same size", key=state.TWIN.name, disabled=too_large,
        help="This model is too large for a second one." if too_large else "Random weights, before any training.",
    )  # fmt: skip
    if not asked or too_large:
        return {}
    try:
        with st.spinner("Making an untrained model…"):
            model = models.untrained_twin(state.model_in_use())
    except gptviz.WeightsError as error:  # no memory for a second one
        st.error(look.plain(str(error)), icon=":material/error:")
        return {}
    return {("untrained", "untrained, without"): model}


def measured(model: LoadedModel, off: tuple[Part, ...]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The mean loss, the chosen group's gradient [layer], and the likeness of tokens [n_layers + 1]."""

    def measure() -> pd.DataFrame:
        loss, norms = gradient_norms(model.engine, view.tokens, off=off)
        return gradient_table(norms).assign(loss=loss)

    table = model.result(view.tokens, ("gradients", off), measure)
    in_blocks = table[table["layer"].notna() & (table["group"] == state.get(state.GROUP))].sort_values("layer")
    likeness = model.result(view.tokens, ("likeness", off), lambda: similarity_of_tokens(model.trace(view.tokens, off)))
    return float(table["loss"].iloc[0]), in_blocks["norm"].to_numpy(float), likeness


@st.fragment
def show_saliency() -> None:
    """Which tokens of the text a prediction rests on."""
    st.subheader("Which tokens does a prediction rest on?")
    position_column, target_column, method_column = st.columns(3)
    chosen = widgets.position(position_column, strings, "After token")
    trace = view.trace()
    best = int(trace.logits_at(chosen).argmax())
    token = widgets.token(target_column, state.TARGET, "Prediction", best, placeholder="the most probable token")
    state.one_of(state.METHOD, list(METHODS))
    with method_column:
        st.segmented_control(
            "Method", list(METHODS), format_func=METHODS.__getitem__, key=state.METHOD.name, required=True
        )
    name = look.code(view.engine.tokenizer.tokens([token]).strings[0])
    if state.get(state.METHOD) == "integrated":
        contributions = show_integrated(chosen, token)
        about = (
            f"What each token's embedding adds to the log-probability of {name}, on the way from no token embeddings "
            "to the text's (Sundararajan et al. 2017)."
        )
    else:
        with st.spinner("Going back through the model…"):
            contributions = view.model.result(
                view.tokens, ("times input", chosen, token),
                lambda: gradient_times_input(trace, chosen, token),
            )  # fmt: skip
        about = (
            f"The slope of the log-probability of {name} when a token's embedding fades: a first guess, which does not "
            "add up."
        )
    shown = np.where(np.arange(len(strings)) <= chosen, contributions, np.nan)
    look.chart(
        charts.value_bars(shown, strings, what="nats", theme=look.theme()),
        key="saliency", alt="How much each token of the text counts for the chosen prediction.",
    )  # fmt: skip
    st.caption(about + " Above 0: the token made it more probable.")
    shared.finish()


def show_integrated(chosen: int, token: int) -> NDArray[np.float64]:
    """The contributions, and a badge that says whether they add up."""
    trace = view.trace()
    key = ("integrated", chosen, token)
    bar = None if view.model.has(view.tokens, key) else st.progress(0.0, text="Going back through the model…")

    def tell(done: int, steps: int) -> None:
        if bar:
            bar.progress(done / steps)

    found = view.model.result(view.tokens, key, lambda: integrated_gradients(trace, chosen, token, progress=tell))
    if bar:
        bar.empty()
    complete = found.error <= 0.01
    st.badge(
        f"Sum {found.contributions.sum():+.4f} nats, the model's own difference {found.difference:+.4f}: "
        f"{found.error:.2%} off, in {found.n_steps} steps",
        icon=":material/check_circle:" if complete else ":material/error:", color="green" if complete else "red",
    )  # fmt: skip
    return found.contributions


if len(view.tokens) > 1:
    show_depth()
else:
    st.caption("One token alone has no next token, so there is no loss to measure: add a second.")
show_saliency()
