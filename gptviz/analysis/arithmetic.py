"""Check this number: every step recomputed in float64 from its operands, without the model's code.

`STEPS` lists what a block does in order, then the final norm and the logits. Each step reads
activations that the trace holds, and makes the next; so an error stays in the step that makes it.
`check` recomputes all cells of a step, `explain` one cell with its operands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..hooks import PER_LAYER
from ..numerics.chunks import chunks
from ..trace import Trace

Float64 = NDArray[np.float64]
Parts = dict[str, Float64]  # by name; a single number is an array without axes

LAYER_NORM_EPS = 1e-5  # of every GPT-2

# How far the model's float32 may be from float64, as a share of the cell's own size: the sum of
# the absolute values of its terms. Rounding is bounded by that sum, not by the result, which
# cancellation can make small, nor by the largest cell, which GPT-2's few huge dimensions would make
# blind to errors in the others (Higham 2002, "Accuracy and Stability of Numerical Algorithms", 3.1).
# 32 roundings are far below the bound for sums of thousands of terms, and above what is ever seen.
TOLERANCE = 32 * float(np.finfo(np.float32).eps)
_SMALLEST = float(np.finfo(np.float32).tiny)  # float32 keeps fewer digits below

_HEAD_FIRST = frozenset({"attn_scores", "pattern"})  # [head, query, key]; all others begin with the position
_BY_HEAD = frozenset({"q", "k", "v"})  # made by a linear layer, which knows no heads
_ROWS_AT_ONCE = 256  # positions
_WEIGHT_ROWS_AT_ONCE = 8192  # the output head in float64 would be 300 MB


class Recomputed(NamedTuple):
    """Cells in float64, and the size of each: the sum of the absolute values of its terms."""

    value: Float64
    size: Float64


class Working(NamedTuple):
    """One cell's arithmetic: what goes in, what is on the way, what comes out."""

    operands: Parts
    intermediates: Parts
    value: float
    size: float  # as in `Recomputed`


@dataclass(frozen=True)
class Step:
    """One step of the model: what it makes, from what, and how."""

    key: str
    name: str  # the activation that it makes, as in `gptviz.ACTIVATIONS`
    title: str
    formula: str  # LaTeX
    reads: tuple[str, ...]  # activations
    parameters: tuple[str, ...]  # the course's names, with {layer}; a bias may be missing in the model
    whole: Callable[..., Recomputed]  # (rows, *activations, *parameters): those rows of the activation
    cell: Callable[..., Working]  # (index, *activations, *parameters)

    @property
    def in_block(self) -> bool:
        """Whether every layer has this step."""
        return self.name in PER_LAYER


@dataclass(frozen=True)
class StepCheck:
    """All cells of a step against the model's own."""

    step: Step
    n_cells: int
    largest_difference: float  # absolute, over all cells
    at: tuple[int, ...]  # the cell with the largest share of its tolerance
    share: float  # of the tolerance that this cell has: above 1 it is wrong

    @property
    def passed(self) -> bool:
        """False for a NaN, too."""
        return self.share <= 1


@dataclass(frozen=True)
class Explanation:
    """One cell of a step, with its arithmetic."""

    step: Step
    index: tuple[int, ...]
    operands: Parts
    intermediates: Parts
    recomputed: float
    model_value: float
    tolerance: float  # the most that they may differ by

    @property
    def difference(self) -> float:
        """Absolute."""
        return abs(self.recomputed - self.model_value)

    @property
    def passed(self) -> bool:
        """False for a NaN, too."""
        return self.difference <= self.tolerance


def recompute(trace: Trace, step: Step, layer: int | None = None, rows: slice = slice(None)) -> Float64:
    """The step's activation, or those `rows` of its first axis, recomputed in float64.

    `layer` is the block, for a step that blocks have. For long texts, and for logits (400 kB a
    position), ask for the rows shown. Raises `ValueError` for a step that the run had switched off.
    """
    return _recompute(trace, step, _operands(trace, step, layer), rows).value


def check(trace: Trace, step: Step, layer: int | None = None, rows: slice = slice(None)) -> StepCheck:
    """Recompute all cells of a step (or of `rows` of its first axis), and compare with the trace's.

    Raises as `recompute` does.
    """
    n_rows = trace.config["n_heads"] if step.name in _HEAD_FIRST else len(trace)
    start, stop, _ = rows.indices(n_rows)
    at_once = 1 if step.name in _HEAD_FIRST else 32 if step.name == "logits" else _ROWS_AT_ONCE
    # Taken from the trace once: at 1,024 tokens it cannot hold all that a step reads, and would derive it again.
    operands = _operands(trace, step, layer)
    made = None if step.name == "logits" else _activation(trace, step.name, layer)
    checks = []
    for part in chunks(stop, at_once, start=start):
        actual = trace.logits_at(part) if made is None else made[part]
        checks.append(_compare(step, _recompute(trace, step, operands, part), actual, part.start))
    worst = max(checks, key=lambda part: np.inf if np.isnan(part.share) else part.share)
    differences = [part.largest_difference for part in checks]
    return StepCheck(step, sum(part.n_cells for part in checks), float(np.max(differences)), worst.at, worst.share)


def explain(trace: Trace, step: Step, index: tuple[int, ...], layer: int | None = None) -> Explanation:
    """The arithmetic of the cell `index` of a step's activation.

    Raises as `recompute` does, and `IndexError` outside of the activation.
    """
    index = tuple(int(number) for number in index)
    if min(index) < 0:
        raise IndexError(f"{index} is no cell of {step.name}: count from 0.")
    first, *others = index
    made = trace.logits_at(first) if step.name == "logits" else _activation(trace, step.name, layer)[first]
    model_value = float(made[tuple(others)])
    if step.name in _BY_HEAD:
        _, head_dim = _heads(trace)
        others = [others[0] * head_dim + others[1]]
    working = step.cell((first, *others), *_operands(trace, step, layer))
    operands, intermediates, value, size = working
    return Explanation(step, index, operands, intermediates, value, model_value, _tolerance(size))


def _compare(step: Step, recomputed: Recomputed, actual: NDArray[np.float32], first: int) -> StepCheck:
    """Rows of a step from the number `first` on against the model's own."""
    difference = np.abs(recomputed.value - actual)
    share = difference / _tolerance(recomputed.size)
    row, *others = (int(number) for number in np.unravel_index(share.argmax(), share.shape))  # a NaN is the largest
    return StepCheck(step, share.size, float(difference.max()), (first + row, *others), float(share.max()))


def _heads(trace: Trace) -> tuple[int, int]:
    """head, head_dim"""
    return trace.config["n_heads"], trace.config["emb_dim"] // trace.config["n_heads"]


def _tolerance(size: Any) -> Any:
    return TOLERANCE * size + _SMALLEST


def _recompute(trace: Trace, step: Step, operands: list[NDArray[np.float32]], rows: slice) -> Recomputed:
    value, size = step.whole(rows, *operands)
    if step.name in _BY_HEAD:
        heads = (len(value), *_heads(trace))
        return Recomputed(value.reshape(heads), size.reshape(heads))
    return Recomputed(value, size)


def _activation(trace: Trace, name: str, layer: int | None) -> NDArray[np.float32]:
    if name not in PER_LAYER:
        return trace[name]
    return trace[name, trace.config["n_layers"] - 1 if layer is None else layer]  # the final norm reads the last block


def _operands(trace: Trace, step: Step, layer: int | None) -> list[NDArray[np.float32]]:
    """The step's activations, then its parameters. A bias that the model has not is left out: it is always the last."""
    if step.in_block and layer is None:
        raise ValueError(f"Every layer has the step {step.key!r}: say which.")
    if not step.in_block:
        layer = None
    if {(step.name, layer), (step.key, layer)} & set(trace.changes):
        raise ValueError(f"This run had {step.name} of layer {layer} switched off: take a run with it on.")
    parameters = [
        trace.weights[name.format(layer=layer)]
        for name in step.parameters
        if trace.config["qkv_bias"] or not name.endswith(("W_query.bias", "W_key.bias", "W_value.bias"))
    ]
    return [_activation(trace, name, layer) for name in step.reads] + parameters


# --- the operations, each for whole rows and for one cell --------------------------------------


def _float64(array: Any) -> Float64:
    return np.asarray(array, dtype=np.float64)


def layer_norm(x: NDArray[Any], gain: NDArray[Any], bias: NDArray[Any]) -> Float64:
    """gain * (x - mean) / sqrt(variance + eps) + bias over the last axis (Ba et al. 2016), in float64."""
    x = _float64(x)
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return gain * (x - mean) / np.sqrt(variance + LAYER_NORM_EPS) + bias


def _norm(rows: slice, stream: NDArray[Any], gain: NDArray[Any], bias: NDArray[Any]) -> Recomputed:
    x = _float64(stream[rows])
    scale = np.sqrt(x.var(axis=-1, keepdims=True) + LAYER_NORM_EPS)
    terms = np.abs(x) + np.abs(x).mean(axis=-1, keepdims=True)
    return Recomputed(layer_norm(x, gain, bias), np.abs(gain) * terms / scale + np.abs(bias))


def _norm_cell(index: tuple[int, ...], stream: NDArray[Any], gain: NDArray[Any], bias: NDArray[Any]) -> Working:
    position, dim = index
    x = _float64(stream[position])
    operands = {"x": x, "gain": _float64(gain[dim]), "bias": _float64(bias[dim]), "eps": _float64(LAYER_NORM_EPS)}
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    normalised = (x[dim] - mean) / np.sqrt(variance + LAYER_NORM_EPS)
    intermediates = {"mean": mean, "variance": variance, "x at this dimension": x[dim], "normalised": normalised}
    gained = abs(gain[dim]) * (abs(x[dim]) + np.abs(x).mean()) / np.sqrt(variance + LAYER_NORM_EPS)
    return Working(operands, intermediates, float(gain[dim] * normalised + bias[dim]), float(gained + abs(bias[dim])))


def _linear(rows: slice, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None) -> Recomputed:
    x = _float64(x[rows])
    x = x.reshape(len(x), weight.shape[1])  # z: the heads are joined
    value, size = np.empty((2, len(x), len(weight)))
    for columns in chunks(len(weight), _WEIGHT_ROWS_AT_ONCE):
        part = _float64(weight[columns])
        value[:, columns] = x @ part.T
        size[:, columns] = np.abs(x) @ np.abs(part).T
    if bias is None:
        return Recomputed(value, size)
    return Recomputed(value + bias, size + np.abs(bias))


def _linear_cell(
    index: tuple[int, ...], x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None
) -> Working:
    position, row = index
    return _sum_of_products({"x": x[position].ravel(), "weight": weight[row]}, None if bias is None else bias[row])


def _scores(rows: slice, q: NDArray[Any], k: NDArray[Any]) -> Recomputed:
    q, k = _by_head(q, rows), _by_head(k, rows)
    root = np.sqrt(q.shape[-1])
    return Recomputed(q @ k.mT / root, np.abs(q) @ np.abs(k).mT / root)


def _scores_cell(index: tuple[int, ...], q: NDArray[Any], k: NDArray[Any]) -> Working:
    head, query, key = index
    working = _sum_of_products({"q": q[query, head], "k": k[key, head]})
    root = np.sqrt(q.shape[-1])
    intermediates = working.intermediates | {"sqrt(head_dim)": _float64(root)}
    return Working(working.operands, intermediates, working.value / root, working.size / root)


def _softmax(rows: slice, scores: NDArray[Any]) -> Recomputed:
    scores = _float64(scores[rows])
    below = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    below = below - below.max(axis=-1, keepdims=True)
    exponentials = np.exp(below)
    value = exponentials / exponentials.sum(axis=-1, keepdims=True)
    # A rounding of the exponent is an error relative to the weight, and the larger the exponent, the larger.
    size = value * (2 + np.abs(np.where(np.isfinite(below), below, 0)))
    return Recomputed(value, size)


def _softmax_cell(index: tuple[int, ...], scores: NDArray[Any]) -> Working:
    head, query, key = index
    allowed = _float64(scores[head, query, : query + 1])
    largest = allowed.max()
    exponentials = np.exp(allowed - largest)
    denominator = exponentials.sum()
    intermediates = {"largest": largest, "exponentials": exponentials, "denominator": denominator}
    if key > query:  # the future is masked
        return Working({"scores": allowed}, intermediates, 0.0, 0.0)
    value = float(exponentials[key] / denominator)
    return Working({"scores": allowed}, intermediates, value, value * (2 + abs(allowed[key] - largest)))


def _weighted_values(rows: slice, pattern: NDArray[Any], v: NDArray[Any]) -> Recomputed:
    value, size = [], []
    for head in range(len(pattern)):
        weights, values = _float64(pattern[head, rows]), _float64(v[:, head])
        value.append(weights @ values)
        size.append(_size_of_weights(weights) @ np.abs(values))
    return Recomputed(np.stack(value, axis=1), np.stack(size, axis=1))


def _weighted_values_cell(index: tuple[int, ...], pattern: NDArray[Any], v: NDArray[Any]) -> Working:
    query, head, dim = index
    working = _sum_of_products({"weights": pattern[head, query, : query + 1], "values": v[: query + 1, head, dim]})
    weights, values = working.operands.values()
    return working._replace(size=float(_size_of_weights(weights) @ np.abs(values)))


def _size_of_weights(weights: Float64) -> Float64:
    """As of the softmax step: PyTorch's fused kernel, which makes most z, has weights of its own, rounded otherwise."""
    return weights * (2 + np.abs(np.log(np.where(weights > 0, weights, 1))))


def _sum(rows: slice, stream: NDArray[Any], added: NDArray[Any]) -> Recomputed:
    stream, added = _float64(stream[rows]), _float64(added[rows])
    return Recomputed(stream + added, np.abs(stream) + np.abs(added))


def _sum_cell(index: tuple[int, ...], stream: NDArray[Any], added: NDArray[Any]) -> Working:
    operands = {"stream": _float64(stream[index]), "added": _float64(added[index])}
    size = np.abs(operands["stream"]) + np.abs(operands["added"])
    return Working(operands, {}, float(operands["stream"] + operands["added"]), float(size))


def _gelu(rows: slice, pre: NDArray[Any]) -> Recomputed:
    x = _float64(pre[rows])
    bent = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return Recomputed(bent, np.abs(x))  # 1 + tanh cancels where x is far below 0


def _gelu_cell(index: tuple[int, ...], pre: NDArray[Any]) -> Working:
    x = _float64(pre[index])
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    tanh = np.tanh(inner)
    intermediates = {"sqrt(2/pi) (x + 0.044715 x^3)": inner, "tanh": tanh}
    return Working({"x": x}, intermediates, float(0.5 * x * (1 + tanh)), float(abs(x)))


def _by_head(array: NDArray[Any], heads: slice) -> Float64:
    """[pos, head, head_dim] -> [head, pos, head_dim], of those heads."""
    return _float64(array[:, heads]).swapaxes(0, 1)


def _sum_of_products(pair: dict[str, NDArray[Any]], bias: Any = None) -> Working:
    operands = {name: _float64(array) for name, array in pair.items()}
    left, right = operands.values()
    products = left * right
    total, size = products.sum(), np.abs(products).sum()
    intermediates = {"products": products, "sum": total}
    if bias is None:
        return Working(operands, intermediates, float(total), float(size))
    return Working(operands | {"bias": _float64(bias)}, intermediates, float(total + bias), float(size + abs(bias)))


# --- the table ---------------------------------------------------------------------------------

_NORM = r"\gamma \odot \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}} + \beta"
_BLOCK = "trf_blocks.{layer}."


def _norm_step(key: str, name: str, title: str, reads: str, module: str) -> Step:
    return Step(key, name, title, _NORM, (reads,), (f"{module}.scale", f"{module}.shift"), _norm, _norm_cell)


def _linear_step(key: str, name: str, title: str, formula: str, reads: str, module: str) -> Step:
    parameters = (f"{module}.weight", f"{module}.bias")
    return Step(key, name, title, formula, (reads,), parameters, _linear, _linear_cell)


def _sum_step(key: str, name: str, title: str, formula: str, reads: tuple[str, str]) -> Step:
    return Step(key, name, title, formula, reads, (), _sum, _sum_cell)


_ALL = (
    _norm_step("norm1", "norm1_out", "LayerNorm 1", "resid_pre", f"{_BLOCK}norm1"),
    _linear_step("query", "q", "Queries", "q = W_Q x + b_Q", "norm1_out", f"{_BLOCK}att.W_query"),
    _linear_step("key", "k", "Keys", "k = W_K x + b_K", "norm1_out", f"{_BLOCK}att.W_key"),
    _linear_step("value", "v", "Values", "v = W_V x + b_V", "norm1_out", f"{_BLOCK}att.W_value"),
    Step(
        "scores",
        "attn_scores",
        "Scaled scores",
        r"\frac{q \cdot k}{\sqrt{d_\mathrm{head}}}",
        ("q", "k"),
        (),
        _scores,
        _scores_cell,
    ),
    Step(
        "pattern",
        "pattern",
        "Masked softmax",
        r"\frac{e^{s_k - \max s}}{\sum_{j \le q} e^{s_j - \max s}}",
        ("attn_scores",),
        (),
        _softmax,
        _softmax_cell,
    ),
    Step(
        "weighted_values",
        "z",
        "Weighted values",
        r"z_q = \sum_{k \le q} \mathrm{pattern}_{qk} \, v_k",
        ("pattern", "v"),
        (),
        _weighted_values,
        _weighted_values_cell,
    ),
    _linear_step(
        "out_proj",
        "attn_out",
        "Heads joined, output projection",
        r"W_O \, [z_0; z_1; \ldots] + b_O",
        "z",
        f"{_BLOCK}att.out_proj",
    ),
    _sum_step("shortcut1", "resid_mid", "Shortcut 1", r"x + \mathrm{attention}", ("resid_pre", "attn_out")),
    _norm_step("norm2", "norm2_out", "LayerNorm 2", "resid_mid", f"{_BLOCK}norm2"),
    _linear_step("linear1", "pre", "First linear layer", "W_1 x + b_1", "norm2_out", f"{_BLOCK}ff.layers.0"),
    Step(
        "gelu",
        "post",
        "GELU",
        r"\frac{x}{2} \left(1 + \tanh\left(\sqrt{2 / \pi} \, (x + 0.044715 x^3)\right)\right)",
        ("pre",),
        (),
        _gelu,
        _gelu_cell,
    ),
    _linear_step("linear2", "mlp_out", "Second linear layer", "W_2 x + b_2", "post", f"{_BLOCK}ff.layers.2"),
    _sum_step("shortcut2", "resid_post", "Shortcut 2", r"x + \mathrm{MLP}", ("resid_mid", "mlp_out")),
    _norm_step("final_norm", "final_norm_out", "Final LayerNorm", "resid_post", "final_norm"),
    Step(
        "logits",
        "logits",
        "Logits",
        r"x \cdot W_\mathrm{head}",
        ("final_norm_out",),
        ("out_head.weight",),
        _linear,
        _linear_cell,
    ),
)
STEPS: dict[str, Step] = {step.key: step for step in _ALL}
