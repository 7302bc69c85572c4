"""Transformer block: one block step by step, with every number open to be checked."""

import numpy as np
import pandas as pd
import streamlit as st

from gptviz import charts
from gptviz.analysis.arithmetic import STEPS, Explanation, Step, check, explain
from gptviz.analysis.logit_attribution import frozen_scale, pushed_tokens
from gptviz.analysis.neurons import neuron_effect, strongest_neurons
from gptviz.numerics.ranking import top_ids
from gptviz.tokens import strings_of
from gptviz.trace import Array
from gptviz.ui import look, models, shared, state, widgets

WORDS = {
    "norm1": "Before attention reads a token's vector, it is brought to mean 0 and variance 1, then scaled by a "
    "learned gain and moved by a learned bias. The stream itself stays as it is.",
    "query": "What does this token look for? Each head makes a short vector of it, the query.",
    "key": "What does this token offer to be found by? Each head makes a key.",
    "value": "What does this token hand over when it is looked at? Each head makes a value.",
    "scores": "How well does a query fit a key? Their dot product, divided by the root of the head's size, so that it "
    "does not grow with it.",
    "pattern": "The future is masked. What is left of a row becomes weights that sum to 1.",
    "weighted_values": "Each token gathers the values of the tokens it looks at, each times its weight.",
    "out_proj": "The heads' results lie side by side again, and one matrix mixes them into what goes to the stream.",
    "shortcut1": "What attention found is added to what came in: the shortcut connection.",
    "norm2": "The same normalisation again, with its own gain and bias, before the feed-forward network.",
    "linear1": "Each token's vector is widened fourfold: every number of the result is a neuron.",
    "gelu": "Each neuron lets positive numbers through and bends negative ones towards 0.",
    "linear2": "The neurons that fire write their vectors; their sum goes to the stream.",
    "shortcut2": "What the network found is added to what came in. This is the block's output.",
    "final_norm": "After the last block, the stream is normalised once more.",
    "logits": "Each token of the vocabulary has a vector; its dot product with this one is its logit.",
}  # fmt: skip
KEYS = list(STEPS)
LOGITS_CHECKED = 256  # tokens: of longer texts only the chosen position's logits are recomputed

view = shared.begin(
    "Transformer block",
    "Follow the data through one block, one step at a time. Under each picture, **check this number** opens the "
    "arithmetic of a single cell with the real operands, computed again in float64 apart from the model's own code.",
)


def name_of(key: str) -> str:
    """A step's number and title."""
    return f"{KEYS.index(key) + 1} · {STEPS[key].title}"


def go(by: int) -> None:
    """To the next step, or the one before."""
    number = KEYS.index(state.get(state.STEP)) + by
    state.put(state.STEP, KEYS[min(max(number, 0), len(KEYS) - 1)])


@st.fragment
def show_step() -> None:
    """The pickers, and the chosen step: words, formula, picture, check."""
    config = view.engine.config
    layer_column, head_column, token_column = st.columns([1, 1, 2])
    layer = widgets.number(layer_column, state.LAYER, "Layer", 0, config["n_layers"] - 1)
    head = widgets.number(head_column, state.HEAD, "Head", 0, config["n_heads"] - 1)
    chosen = widgets.position(token_column, view.tokens.strings)
    state.one_of(state.STEP, KEYS)
    st.pills("Step", KEYS, format_func=name_of, key=state.STEP.name, required=True)
    with st.container(horizontal=True):
        at = KEYS.index(state.get(state.STEP))
        st.button("Previous step", icon=":material/arrow_back:", on_click=go, args=(-1,), disabled=at == 0)
        st.button(
            "Next step", icon=":material/arrow_forward:", on_click=go, args=(1,), type="primary",
            disabled=at == len(KEYS) - 1,
        )  # fmt: skip
    step = STEPS[state.get(state.STEP)]
    show_heading(step, layer, chosen)
    show_picture(step, layer, head, chosen)
    show_check(step, layer, head, chosen)
    shared.finish()


def activation(name: str, layer: int) -> Array:
    """An activation of this layer; of the final norm's input, the last layer's."""
    trace = view.trace()
    if name in ("final_norm_out", "logits"):
        return trace[name]
    return trace[name, layer]


def source_layer(step: Step, layer: int) -> int:
    """The final norm reads the last block, whichever is picked."""
    return layer if step.in_block else view.engine.config["n_layers"] - 1


def shape(name: str, layer: int) -> str:
    """An activation's shape for people."""
    if name == "logits":
        return f"{name} [{len(view.tokens):,}, {view.engine.config['vocab_size']:,}]"
    return f"{name} [{', '.join(f'{n:,}' for n in activation(name, layer).shape)}]"


def show_heading(step: Step, layer: int, chosen: int) -> None:
    """Title, words, formula, shapes, and the badge over all cells."""
    st.subheader(name_of(step.key))
    words_column, formula_column = st.columns([3, 2], vertical_alignment="center")
    read_layer = source_layer(step, layer)
    reads = " and ".join(f"`{shape(name, read_layer)}`" for name in step.reads)
    words_column.markdown(f"{WORDS[step.key]}\n\n{reads} → `{shape(step.name, layer)}`")
    formula_column.latex(step.formula)

    only_row = step.key == "logits" and len(view.tokens) > LOGITS_CHECKED
    rows = slice(chosen, chosen + 1) if only_row else slice(None)
    with st.spinner("Computing this step again in float64…"), models.turn():
        checked = check(view.trace(), step, layer if step.in_block else None, rows)
    cells = f"{checked.n_cells:,} cells" + (" of this position" if only_row else "")
    if checked.passed:
        st.badge(
            f"All {cells} agree: largest difference {checked.largest_difference:.1e}",
            icon=":material/check_circle:", color="green",
        )  # fmt: skip
    else:
        st.badge(
            f"Not all {cells} agree: largest difference {checked.largest_difference:.1e}, worst at {checked.at}",
            icon=":material/error:", color="red",
        )  # fmt: skip


def show_picture(step: Step, layer: int, head: int, chosen: int) -> None:
    """What goes in and what comes out."""
    strings = view.tokens.strings
    if step.key == "scores":
        scores = activation("attn_scores", layer)[head]
        root = np.sqrt(view.engine.config["emb_dim"] / view.engine.config["n_heads"])
        pair("Raw: q · k", scores * root, "Scaled: divided by √head_dim", scores, step)
    elif step.key == "pattern":
        left, right = st.columns(2)
        with left:
            st.markdown("**Masked: the future is grey**")
            show_pairs(activation("attn_scores", layer)[head], "masked", masked=True)
        with right:
            st.markdown("**Softmax: each row sums to 1**")
            look.chart(
                charts.attention_map(
                    activation("pattern", layer)[head], strings, chosen=chosen, theme=look.theme()
                ),
                key="softmax", alt=f"Attention weights of head {head} in layer {layer}.",
            )  # fmt: skip
    elif step.key == "logits":
        logits = view.trace().logits_at(chosen)
        best = top_ids(logits, 12)
        look.chart(
            charts.value_bars(logits[best], strings_of(best), what="logit", horizontal=True, theme=look.theme()),
            key="logits", alt="The twelve highest logits after the chosen token.",
        )  # fmt: skip
    else:
        show_maps(step, layer, head, chosen)
    if step.key in ("norm1", "norm2", "final_norm"):
        show_norm_table(step, layer)
    if step.key == "gelu":
        show_gelu(layer, chosen)


def pair(left_title: str, left: Array, right_title: str, right: Array, step: Step) -> None:
    """Two maps of token pairs side by side."""
    for column, title, values in zip(st.columns(2), (left_title, right_title), (left, right), strict=True):
        with column:
            st.markdown(f"**{title}**")
            show_pairs(values, f"{step.key} {title[:3]}")


def show_pairs(values: Array, key: str, *, masked: bool = False) -> None:
    """Scores between every query and key."""
    look.chart(
        charts.token_pair_map(
            values, view.tokens.strings, what="score", masked=masked, down="query", across="key", theme=look.theme()
        ),
        key=f"pairs-{key}", alt="Scores between queries (down) and keys (across).",
    )  # fmt: skip


def show_maps(step: Step, layer: int, head: int, chosen: int) -> None:
    """Operands and result as maps of tokens by dimensions; of what has heads, the chosen head's."""
    names = [name for name in (*step.reads, step.name) if name != "pattern"]
    if step.key == "linear2":
        names = ["post", "mlp_out"]
    for name in names:
        values = activation(name, source_layer(step, layer) if name != step.name else layer)
        title = f"`{name}`" + ("" if name in step.reads else " — the result")
        across = "neuron" if name in ("pre", "post") else "dimension"
        if step.key == "out_proj" and name == "z":
            values, title = values.reshape(len(values), -1), "`z`, the heads joined"
        elif values.ndim == 3:
            values, title, across = values[:, head], f"{title}, head {head}", "dimension of the head"
        st.markdown(f"**{title}**")
        look.chart(
            charts.dimension_map(values, view.tokens.strings, across=across, chosen=chosen, theme=look.theme()),
            key=f"map-{step.key}-{name}", alt=f"{name}: one token a row.",
        )  # fmt: skip


def show_norm_table(step: Step, layer: int) -> None:
    """Mean and variance of every token before and after, and the learned gain and bias."""
    stream = activation(step.reads[0], source_layer(step, layer)).astype(np.float64)
    mean, variance = stream.mean(axis=1), stream.var(axis=1)
    normed = (stream - mean[:, None]) / np.sqrt(variance + 1e-5)[:, None]
    result = activation(step.name, layer)
    table = pd.DataFrame(
        {
            "token": view.tokens.strings,
            "mean before": mean,
            "variance before": variance,
            "mean normalised": normed.mean(axis=1),
            "variance normalised": normed.var(axis=1),
            "mean after gain and bias": result.mean(axis=1),
            "variance after gain and bias": result.var(axis=1),
        }
    )
    numbers = {name: st.column_config.NumberColumn(format="%.4f") for name in table.columns[1:]}
    st.dataframe(table, hide_index=True, column_config=numbers, height=min(38 * (len(table) + 1), 300))
    gain, bias = (view.engine.weights[name.format(layer=layer)] for name in step.parameters)
    st.markdown("**Learned gain and bias, per dimension**")
    look.chart(
        charts.dimension_lines({"gain": gain, "bias": bias}, theme=look.theme()),
        key=f"gain-{step.key}", alt="The learned gain and bias of this LayerNorm over its dimensions.",
    )  # fmt: skip


def show_gelu(layer: int, chosen: int) -> None:
    """The curve with the chosen token's neurons on it; those that fire most, and what they say."""
    pre, post = activation("pre", layer), activation("post", layer)
    curve_column, neuron_column = st.columns(2, gap="large")
    with curve_column:
        st.markdown(f"**GELU, with the neurons of {look.code(view.tokens.strings[chosen])} on it**")
        look.chart(
            charts.gelu_curve(pre[chosen], post[chosen], theme=look.theme()),
            key="gelu-curve", alt="The GELU curve, with one point a neuron.",
        )  # fmt: skip
    with neuron_column:
        neurons = strongest_neurons(post, chosen, k=8)
        scale = float(frozen_scale(activation("resid_post", view.engine.config["n_layers"] - 1)[chosen]))
        effects = neuron_effect(view.engine.weights, layer, neurons["neuron"].to_numpy(), scale)
        pushed = [pushed_tokens(effect, k=4) for effect in effects]
        neurons["pushes up"] = ["  ".join(table["token"][:4]) for table in pushed]
        neurons["pushes down"] = ["  ".join(table["token"][:-5:-1]) for table in pushed]
        look.tables(
            {"The neurons that fire most, and the tokens that each pushes": neurons.drop(columns="share_below")}
        )


def show_check(step: Step, layer: int, head: int, chosen: int) -> None:
    """Pick a cell, and see its arithmetic."""
    st.subheader("Check this number")
    result_shape = activation(step.name, layer).shape if step.key != "logits" else (0, view.engine.config["vocab_size"])
    index = pick_cell(step, result_shape, head, chosen)
    found = explain(view.trace(), step, index, layer if step.in_block else None)
    columns = st.columns(3)
    columns[0].metric("Computed again in float64", f"{found.recomputed:.7g}", border=True)
    columns[1].metric("The model's own, float32", f"{found.model_value:.7g}", border=True)
    columns[2].metric(
        "Difference", f"{found.difference:.1e}", border=True,
        help=f"Rounding to float32 explains up to {found.tolerance:.1e} here.",
    )  # fmt: skip
    if not found.passed:
        st.error("The two differ by more than rounding explains.", icon=":material/error:")
    show_arithmetic(found)


def pick_cell(step: Step, result_shape: tuple[int, ...], head: int, chosen: int) -> tuple[int, ...]:
    """The cell's index: its token and head are those picked above, and here the rest."""
    if step.name in ("attn_scores", "pattern"):
        key = widgets.number(st.container(), state.KEY, "Key position", 0, len(view.tokens) - 1)
        st.caption(
            f"Head {head}, query {look.code(view.tokens.strings[chosen])}, key {look.code(view.tokens.strings[key])}"
        )
        return head, chosen, key
    label = {"logits": "Token id", "pre": "Neuron", "post": "Neuron"}.get(step.name, "Dimension")
    number = widgets.number(st.container(), state.DIM, label, 0, result_shape[-1] - 1)
    told = f", which is {look.code(strings_of([number])[0])}" if step.name == "logits" else ""
    st.caption(f"Token {look.code(view.tokens.strings[chosen])}, {label.lower()} {number}{told}")
    return (chosen, head, number) if len(result_shape) == 3 else (chosen, number)


def show_arithmetic(found: Explanation) -> None:
    """The operands and what is on the way: single numbers as a table, products as bars."""
    single = {**found.operands, **found.intermediates}
    numbers = {name: float(value) for name, value in single.items() if np.ndim(value) == 0}
    if numbers:
        values = [f"{value:.9g}" for value in numbers.values()]
        look.tables({"Step by step": pd.DataFrame({"part": list(numbers), "value": values})})
    bars = found.intermediates.get("products", found.intermediates.get("exponentials"))
    if bars is None:
        return
    is_sum = "products" in found.intermediates
    what = "product" if is_sum else "exponential"
    st.markdown(f"**The {len(bars):,} {what}s; their sum is {bars.sum():.7g}**")
    by_token = found.step.key in ("pattern", "weighted_values")
    names = view.tokens.strings[: len(bars)] if by_token else [str(number) for number in range(len(bars))]
    look.chart(
        charts.value_bars(bars, names, what=what, theme=look.theme()), key="arithmetic", alt=f"One bar a {what}."
    )
    arrays = {name: value for name, value in single.items() if np.shape(value) == np.shape(bars)}
    widgets.folded("All operands", lambda: st.dataframe(pd.DataFrame(arrays)))


show_step()
