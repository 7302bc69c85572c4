"""Transformer block: one block step by step, where every number can be checked."""

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from gptviz import charts
from gptviz.analysis.arithmetic import STEPS, Explanation, Step, check, explain
from gptviz.analysis.logit_attribution import frozen_scale, pushed_tokens
from gptviz.analysis.neurons import neuron_effect, strongest_neurons
from gptviz.analysis.norms import norm_table
from gptviz.numerics.ranking import top_ids
from gptviz.tokens import strings_of
from gptviz.trace import Array, Trace
from gptviz.ui import descriptions, models, settings, state, widgets
from gptviz.ui.fragments import fragment
from gptviz.ui.markdown import code
from gptviz.ui.page import About, name_tab
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.tables import tables, verdict
from gptviz.ui.view import View

WORDS = {
    "norm1": "Before attention reads a token's vector, it is brought to mean 0 and variance 1, then scaled by a "
    "learned gain and moved by a learned bias. The stream itself stays as it is.",
    "query": "What does this token look for? Each head makes a short vector of it, the query.",
    "key": "What does this token offer to be found by? Each head makes a key.",
    "value": "What does this token hand over when it is looked at? Each head makes a value.",
    "scores": "How well does a query fit a key? Their dot product, divided by the root of the head's size, so that it "
    "does not grow with it.",
    "pattern": "The future is masked. What is left of a row becomes attention weights that sum to 1.",
    "weighted_values": "Each token gathers the values of the tokens it looks at, each times its attention weight.",
    "out_proj": "The heads' results lie side by side again, and one matrix mixes them into what goes to the stream.",
    "shortcut1": "What attention found is added to what came in: the shortcut connection.",
    "norm2": "The same normalisation again, with its own gain and bias, before the feed-forward network (MLP).",
    "linear1": "Each token's vector is widened fourfold: every number of the result is a neuron.",
    "gelu": "Each neuron lets positive numbers through and bends negative ones towards 0.",
    "linear2": "The neurons that fire write their vectors; their sum goes to the stream.",
    "shortcut2": "What the MLP found is added to what came in. This is the Transformer block's output.",
    "final_norm": "After the last Transformer block, the stream is normalised once more.",
    "logits": "Each token of the vocabulary has a vector; its dot product with this one is its logit.",
}
KEYS = list(STEPS)
NORMS = ("norm1", "norm2", "final_norm")
LOGITS_CHECKED = 256  # tokens; for longer texts, only the chosen position's logits are recomputed
LOGITS_SHOWN = 12
TAKEN = 24  # rem: what the window needs for other things than the pictures
CELL = (settings.STEP, settings.LAYER, settings.HEAD, settings.TOKEN)

ABOUT = About(
    "Transformer block",
    "Transformer block",
    "Follow the data through one [[Transformer block]], one step at a time. Under each picture, **check this number** "
    "opens the arithmetic of a single cell with the real operands, computed again in float64 apart from the model's "
    "own code.",
)


def show(view: View) -> None:
    """Draw the page."""
    show_step(view)


@fragment
def show_step(view: View) -> None:
    """Draw the pickers, and the chosen step: words, formula, picture, check."""
    back_column, step_column, next_column, layer_column, head_column, token_column = st.columns(
        [1.1, 2, 1.1, 1.1, 1.1, 1.4], vertical_alignment="bottom"
    )
    step = STEPS[
        widgets.selectbox(step_column, settings.STEP, "Step", KEYS, format_func=name_of, help="The steps of one block.")
    ]
    at, last = KEYS.index(step.key), len(KEYS) - 1
    back, forward = ":material/arrow_back:", ":material/arrow_forward:"
    back_column.button("Previous", icon=back, on_click=go, args=(-1,), disabled=at == 0, width="stretch")
    next_column.button(
        "Next step", icon=forward, on_click=go, args=(1,), type="primary", disabled=at == last, width="stretch"
    )
    layer, head = widgets.layer(layer_column, view), widgets.head(head_column, view)
    token = widgets.position(token_column, view.strings)
    name_tab(ABOUT, f"L{layer} {step.title}" if step.in_block else step.title)
    show_heading(view, step, layer, token)
    show_pictures(view, step)
    if step.key in NORMS:
        show_norm(view, step, layer)
    if step.key == "gelu":
        show_gelu(view, layer, token)
    show_check(view, step, layer, head, token)


def name_of(key: str) -> str:
    """Return a step's number and title."""
    return f"{KEYS.index(key) + 1} · {STEPS[key].title}"


def go(by: int) -> None:
    """Go forward by so many steps, or back if `by` is negative."""
    number = KEYS.index(state.get(settings.STEP)) + by
    state.put(settings.STEP, KEYS[min(max(number, 0), len(KEYS) - 1)])


# --- what a step reads and makes ---------------------------------------------------------------


def result(trace: Trace, step: Step, layer: int) -> Array:
    """Return the activation that the step computes."""
    return trace[step.name, layer] if step.in_block else trace[step.name]


def operand(trace: Trace, step: Step, name: str, layer: int) -> Array:
    """Return an activation that the step reads. The final norm reads the last block, whichever layer is picked."""
    if name == "final_norm_out":
        return trace[name]
    return trace[name, layer if step.in_block else trace.config["n_layers"] - 1]


def shape_of(view: View, step: Step, name: str, layer: int) -> str:
    """Return an activation's name and shape as text."""
    if name == "logits":  # not computed for this: all logits take many megabytes
        return f"{name} [{len(view.tokens):,}, {view.config['vocab_size']:,}]"
    trace = view.trace()
    values = result(trace, step, layer) if name == step.name else operand(trace, step, name, layer)
    return f"{name} [{', '.join(f'{n:,}' for n in values.shape)}]"


def show_heading(view: View, step: Step, layer: int, token: int) -> None:
    """Show the words, the formula and the shapes, and the verdict over all cells."""
    reads = " and ".join(f"`{shape_of(view, step, name, layer)}`" for name in step.reads)
    with st.container(key="step-words"):  # of one height for all steps, so that the pictures do not jump
        words_column, formula_column = st.columns([3, 2], vertical_alignment="center")
    with words_column:
        st.markdown(f"{WORDS[step.key]}  \n{reads} → `{shape_of(view, step, step.name, layer)}`")
        show_agreement(view, step, layer, token)
    formula_column.latex(step.formula)


def show_agreement(view: View, step: Step, layer: int, token: int) -> None:
    """Compute the whole step again in float64, and say whether all cells agree with the model's own."""
    only_row = step.key == "logits" and len(view.tokens) > LOGITS_CHECKED
    rows = slice(token, token + 1) if only_row else slice(None)
    with st.spinner("Computing this step again in float64…"), models.turn():
        checked = check(view.trace(), step, layer if step.in_block else None, rows)
    cells = f"{checked.n_cells:,} cells" + (" of this position" if only_row else "")
    difference = f"largest difference {checked.largest_difference:.1e}"
    if checked.passed:
        verdict(True, f"All {cells} agree: {difference}")
    else:
        verdict(False, f"Not all {cells} agree: {difference}, worst at {checked.at}")


# --- pictures ----------------------------------------------------------------------------------


def show_pictures(view: View, step: Step) -> None:
    """Show what goes in and what comes out."""
    if step.key == "logits":
        show_picture(highest_logits, view, taken=TAKEN)
    elif step.key in ("scores", "pattern"):
        titles = {
            "scores": {"raw": "Raw: q · k", "scaled": "Scaled: divided by √head_dim"},
            "pattern": {"masked": "Masked: the future is grey", "softmax": "Softmax: each row sums to 1"},
        }[step.key]
        for column, (variant, title) in zip(st.columns(2), titles.items(), strict=True):
            with column:
                st.markdown(f"**{title}**")
                show_picture(step_pairs, view, variant=variant, across=1 / 2, taken=TAKEN)
    else:
        names = shown_activations(step)
        for column, name in zip(st.columns(len(names)), names, strict=True):
            with column:
                st.markdown(f"**{map_title(step, name, state.get(settings.HEAD))}**")
                show_picture(step_map, view, variant=name, across=1 / len(names), taken=TAKEN)


@picture(
    "step-pairs",
    "Attention scores and weights, step by step",
    settings.LAYER,
    settings.HEAD,
    settings.TOKEN,
    variants=("raw", "scaled", "masked", "softmax"),
)
def step_pairs(view: View, layer: int, head: int, token: int, variant: str) -> Chart:
    """One head's attention scores or weights: a number for every query and key."""
    trace = view.trace()
    if variant == "softmax":
        pattern = trace["pattern", layer][head]
        return Chart(
            partial(charts.attention_map, pattern, view.strings, chosen=token),
            f"Attention weights of L{layer}H{head}: {descriptions.largest_weight(pattern, view.strings)}.",
        )
    root = np.sqrt(view.config["emb_dim"] / view.config["n_heads"]) if variant == "raw" else 1
    values = trace["attn_scores", layer][head] * root
    draw = partial(
        charts.token_pair_map,
        values,
        view.strings,
        what="attention score",
        masked=variant == "masked",
        down="query",
        across="key",
    )
    extremes = descriptions.extreme_pairs(descriptions.past(values) if variant == "masked" else values, view.strings)
    return Chart(draw, f"Attention scores of L{layer}H{head}, {variant}: {extremes}.")


def shown_activations(step: Step) -> list[str]:
    """Return the names of a step's activations that are drawn as maps of tokens by dimensions."""
    if step.key == "linear2":
        return ["post", "mlp_out"]
    return [name for name in (*step.reads, step.name) if name != "pattern"]


def map_title(step: Step, name: str, head: int) -> str:
    """Return the words above a map."""
    if step.key == "out_proj" and name == "z":
        return "`z`, the heads joined"
    title = f"`{name}`" + ("" if name in step.reads else " — the result")
    return f"{title}, head {head}" if name in ("q", "k", "v", "z") else title


WITHOUT_MAPS = ("scores", "pattern", "logits")
MAPPED = dict.fromkeys(name for key in KEYS if key not in WITHOUT_MAPS for name in shown_activations(STEPS[key]))


@picture("step-map", "What a step reads and makes", *CELL, variants=tuple(MAPPED))
def step_map(view: View, step: str, layer: int, head: int, token: int, variant: str) -> Chart | None:
    """An activation, or the chosen head's part of it, as a map of tokens by dimensions; None if there is no map."""
    shown = STEPS[step]
    if step in WITHOUT_MAPS or variant not in shown_activations(shown):
        return None
    trace = view.trace()
    values = result(trace, shown, layer) if variant == shown.name else operand(trace, shown, variant, layer)
    across = "neuron" if variant in ("pre", "post") else "dimension"
    if step == "out_proj" and variant == "z":
        values = values.reshape(len(values), -1)
    elif values.ndim == 3:
        values, across = values[:, head], "dimension of the head"
    rows, columns = descriptions.placed(view.strings), descriptions.numbered(across, values.shape[1])
    draw = partial(charts.dimension_map, values, view.strings, across=across, chosen=token)
    return Chart(draw, f"{variant}: {descriptions.extreme_cells(values, rows, columns)}.")


@picture("logits", "The highest logits", settings.TOKEN)
def highest_logits(view: View, token: int) -> Chart:
    """The highest logits after the chosen token."""
    logits = view.trace().logits_at(token)
    best = top_ids(logits, LOGITS_SHOWN)
    strings = strings_of(best)
    highest = descriptions.listed(descriptions.valued(descriptions.tokens(strings), logits[best]))
    return Chart(
        partial(charts.value_bars, logits[best], strings, what="logit", horizontal=True),
        f"The highest logits after {descriptions.token(view.strings[token])}: {highest}.",
    )


# --- LayerNorm and GELU ------------------------------------------------------------------------


def show_norm(view: View, step: Step, layer: int) -> None:
    """Show every token's mean and variance before and after, and the learned gain and bias."""
    trace = view.trace()
    table = norm_table(operand(trace, step, step.reads[0], layer), result(trace, step, layer))
    table.insert(0, "token", view.strings)
    numbers = {name: st.column_config.NumberColumn(format="%.4f") for name in table.columns[1:]}
    st.dataframe(table, hide_index=True, column_config=numbers, height=min(38 * (len(table) + 1), 300))
    st.markdown("**Learned gain and bias, per dimension**")
    show_picture(gain_and_bias, view)


@picture("gain", "A LayerNorm's gain and bias", settings.STEP, settings.LAYER)
def gain_and_bias(view: View, step: str, layer: int) -> Chart | None:
    """The learned gain and bias over the dimensions; None for a step that is not a LayerNorm."""
    if step not in NORMS:
        return None
    weights = view.engine.weights
    norm = {"norm1": weights.norm1(layer), "norm2": weights.norm2(layer), "final_norm": weights.final_norm}[step]
    dimensions = descriptions.numbered("dimension", len(norm.gain))
    gain, bias = (descriptions.extremes(dimensions, values) for values in (norm.gain, norm.bias))
    draw = partial(charts.dimension_lines, {"gain": norm.gain, "bias": norm.bias})
    return Chart(draw, f"{STEPS[step].title}. Gain: {gain}. Bias: {bias}.")


def show_gelu(view: View, layer: int, token: int) -> None:
    """Show the GELU curve with the chosen token's neurons, and the neurons that fire most with the tokens they push."""
    curve_column, neuron_column = st.columns(2, gap="large")
    with curve_column:
        st.markdown(f"**GELU, with the neurons of {code(view.strings[token])} on it**")
        show_picture(gelu_curve, view, across=1 / 2)
    with neuron_column:
        tables({"The neurons that fire most, and the tokens that each pushes": neuron_table(view, layer, token)})


@picture("gelu-curve", "GELU with a token's neurons", settings.LAYER, settings.TOKEN)
def gelu_curve(view: View, layer: int, token: int) -> Chart:
    """The GELU curve, with one point per neuron."""
    trace = view.trace()
    pre, post = trace["pre", layer][token], trace["post", layer][token]
    extremes = descriptions.extremes(descriptions.numbered("neuron", len(post)), post)
    return Chart(
        partial(charts.gelu_curve, pre, post),
        f"The GELU curve with the {len(post):,} neurons of {descriptions.token(view.strings[token])}: {extremes}.",
    )


def neuron_table(view: View, layer: int, token: int) -> pd.DataFrame:
    """One row per neuron: those that fire most for a token, and the tokens that each pushes up and down."""
    trace = view.trace()
    neurons = strongest_neurons(trace["post", layer], token, k=8)
    scale = float(frozen_scale(trace["resid_post", view.config["n_layers"] - 1][token]))
    effects = neuron_effect(trace.weights, layer, neurons["neuron"].to_numpy(), scale)
    pushed = [pushed_tokens(effect, k=4) for effect in effects]
    neurons["pushes up"] = ["  ".join(table["token"][:4]) for table in pushed]
    neurons["pushes down"] = ["  ".join(table["token"][:-5:-1]) for table in pushed]
    return neurons.drop(columns="share_below")


# --- check this number -------------------------------------------------------------------------


def show_check(view: View, step: Step, layer: int, head: int, token: int) -> None:
    """Let the user pick a cell, and show its arithmetic."""
    st.header("Check this number")
    index = pick_cell(view, step, layer, head, token)
    found = explain(view.trace(), step, index, layer if step.in_block else None)
    columns = st.columns(3)
    columns[0].metric("Computed again in float64", f"{found.recomputed:.7g}", border=True)
    columns[1].metric("The model's own, float32", f"{found.model_value:.7g}", border=True)
    columns[2].metric(
        "Difference",
        f"{found.difference:.1e}",
        border=True,
        help=f"Rounding to float32 explains up to {found.tolerance:.1e} here.",
    )
    if not found.passed:
        st.error("The two differ by more than rounding explains.", icon=":material/error:")
    show_arithmetic(view, found)


def pick_cell(view: View, step: Step, layer: int, head: int, token: int) -> tuple[int, ...]:
    """Let the user pick the rest of the cell's index; token and head were picked above. Return the whole index."""
    strings = view.strings
    if step.name in ("attn_scores", "pattern"):
        key = widgets.number(st.container(), settings.KEY, "Key position", 0, len(view.tokens) - 1)
        st.caption(f"Head {head}, query {code(strings[token])}, key {code(strings[key])}")
        return head, token, key
    label = {"logits": "Token id", "pre": "Neuron", "post": "Neuron"}.get(step.name, "Dimension")
    shape = (0, view.config["vocab_size"]) if step.name == "logits" else result(view.trace(), step, layer).shape
    number = widgets.number(st.container(), settings.DIM, label, 0, shape[-1] - 1)
    told = f", which is {code(strings_of([number])[0])}" if step.name == "logits" else ""
    st.caption(f"Token {code(strings[token])}, {label.lower()} {number}{told}")
    return (token, head, number) if len(shape) == 3 else (token, number)


def show_arithmetic(view: View, found: Explanation) -> None:
    """Show the operands and intermediate results: single numbers as a table, the terms of the sum as bars."""
    single = {**found.operands, **found.intermediates}
    numbers = {name: float(value) for name, value in single.items() if np.ndim(value) == 0}
    if numbers:
        values = [f"{value:.9g}" for value in numbers.values()]
        tables({"Step by step": pd.DataFrame({"part": list(numbers), "value": values})})
    bars, what = terms(found)
    if bars is None:
        return
    st.markdown(f"**The {len(bars):,} {what}s; their sum is {bars.sum():.7g}**")
    show_picture(arithmetic, view)
    arrays = {name: value for name, value in single.items() if np.shape(value) == np.shape(bars)}
    widgets.folded(settings.Fold.OPERANDS, "All operands", lambda: st.dataframe(pd.DataFrame(arrays)))


def terms(found: Explanation) -> tuple[np.ndarray | None, str]:
    """Return the terms that are summed for the cell, and what they are; None if there is no sum."""
    if "products" in found.intermediates:
        return found.intermediates["products"], "product"
    return found.intermediates.get("exponentials"), "exponential"


@picture("arithmetic", "The terms of one number", *CELL, settings.KEY, settings.DIM)
def arithmetic(view: View, step: str, layer: int, head: int, token: int, key: int, dim: int) -> Chart | None:
    """The products or exponentials that are summed for one cell; None if there is no sum."""
    shown, trace = STEPS[step], view.trace()
    index: tuple[int, ...] = (token, dim)
    if shown.name in ("attn_scores", "pattern"):
        index = (head, token, key)
    elif shown.name != "logits" and result(trace, shown, layer).ndim == 3:
        index = (token, head, dim)
    found = explain(trace, shown, index, layer if shown.in_block else None)
    bars, what = terms(found)
    if bars is None:
        return None
    by_token = step in ("pattern", "weighted_values")
    names = view.strings[: len(bars)] if by_token else [str(number) for number in range(len(bars))]
    extremes = descriptions.extremes(descriptions.placed(names) if by_token else names, bars)
    alt = f"The {len(bars):,} {what}s of one number: {extremes}. Their sum is {descriptions.number(bars.sum())}."
    return Chart(partial(charts.value_bars, bars, names, what=what), alt)
