"""Check this number: recompute every step in float64 from its operands, without the model's code.

`STEPS` lists what a block does in order, then the final norm and the logits. Each step reads
activations from the trace and computes the next one, so an error shows only in the step that makes it.
`check` recomputes all cells of a step, `explain` one cell with its operands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hooks import PER_LAYER
from ..numerics import operations
from ..numerics.chunks import chunks
from ..numerics.operations import Float64, Parts, Recomputed, Working
from ..trace import Trace

# How far the model's float32 value may be from the float64 value, as a share of the cell's own size: the
# sum of the absolute values of its terms, which bounds the rounding (Higham 2002, "Accuracy and Stability of
# Numerical Algorithms", 3.1). The result itself would not do, because cancellation can make it small; nor would
# the largest cell, because GPT-2's few huge dimensions would hide errors in the others.
# 32 roundings are far below the bound for sums of thousands of terms, and above any error seen in practice.
TOLERANCE = 32 * float(np.finfo(np.float32).eps)
_SMALLEST = float(np.finfo(np.float32).tiny)  # float32 keeps fewer digits below this

_HEAD_FIRST = frozenset({"attn_scores", "pattern"})  # [head, query, key]; the first axis of all others is the position
_BY_HEAD = frozenset({"q", "k", "v"})  # computed by a linear layer, which does not separate heads
_ROWS_AT_ONCE = 256  # positions


@dataclass(frozen=True)
class Step:
    """One step of the model: the activation that it computes, what it reads, and its arithmetic."""

    key: str
    name: str  # the activation that it computes, as in `gptviz.ACTIVATIONS`
    title: str
    formula: str  # LaTeX
    reads: tuple[str, ...]  # activations
    parameters: tuple[str, ...]  # the course's names, with {layer}; the model may lack a bias
    whole: Callable[..., Recomputed]  # (rows, *activations, *parameters) -> those rows
    cell: Callable[..., Working]  # (index, *activations, *parameters) -> that cell

    @property
    def in_block(self) -> bool:
        """Whether every layer has this step."""
        return self.name in PER_LAYER


@dataclass(frozen=True)
class StepCheck:
    """All cells of a step compared with the model's own."""

    step: Step
    n_cells: int
    largest_difference: float  # absolute, over all cells
    at: tuple[int, ...]  # the cell whose difference is the largest share of its tolerance
    share: float  # that share: above 1 the cell is wrong

    @property
    def passed(self) -> bool:
        """Whether all cells are within their tolerance; False for NaN."""
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
    tolerance: float  # the most that the two may differ by

    @property
    def difference(self) -> float:
        """Absolute difference between the two values."""
        return abs(self.recomputed - self.model_value)

    @property
    def passed(self) -> bool:
        """Whether the cell is within its tolerance; False for NaN."""
        return self.difference <= self.tolerance


def recompute(trace: Trace, step: Step, layer: int | None = None, rows: slice = slice(None)) -> Float64:
    """The step's activation, or only `rows` of its first axis, recomputed in float64.

    `layer` is the block, for a step inside blocks. For long texts, and for logits (400 kB per
    position), ask only for the rows shown. Raises `ValueError` if the run had the step switched off.
    """
    return _recompute(trace, step, _operands(trace, step, layer), rows).value


def check(trace: Trace, step: Step, layer: int | None = None, rows: slice = slice(None)) -> StepCheck:
    """Recompute all cells of a step (or of `rows` of its first axis), and compare them with the trace's.

    Raises the same errors as `recompute`.
    """
    n_rows = trace.config["n_heads"] if step.name in _HEAD_FIRST else len(trace)
    start, stop, _ = rows.indices(n_rows)
    at_once = 1 if step.name in _HEAD_FIRST else 32 if step.name == "logits" else _ROWS_AT_ONCE
    # Read from the trace only once: at 1,024 tokens it cannot hold all that a step reads, and would derive it again.
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

    Raises the same errors as `recompute`, and `IndexError` for an index outside the activation.
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
    """Compare the rows of a step, starting at row `first`, with the model's own."""
    difference = np.abs(recomputed.value - actual)
    share = difference / _tolerance(recomputed.size)
    row, *others = (int(number) for number in np.unravel_index(share.argmax(), share.shape))  # argmax finds a NaN
    return StepCheck(step, share.size, float(difference.max()), (first + row, *others), float(share.max()))


def _heads(trace: Trace) -> tuple[int, int]:
    """Return (n_heads, head_dim)."""
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
    """The step's activations, then its parameters. A bias that the model lacks is left out: biases come last."""
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


# --- the table ---------------------------------------------------------------------------------

_NORM = r"\gamma \odot \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}} + \beta"
_BLOCK = "trf_blocks.{layer}."


def _norm_step(key: str, name: str, title: str, reads: str, module: str) -> Step:
    parameters = (f"{module}.scale", f"{module}.shift")
    return Step(key, name, title, _NORM, (reads,), parameters, operations.norm, operations.norm_cell)


def _linear_step(key: str, name: str, title: str, formula: str, reads: str, module: str) -> Step:
    parameters = (f"{module}.weight", f"{module}.bias")
    return Step(key, name, title, formula, (reads,), parameters, operations.linear, operations.linear_cell)


def _sum_step(key: str, name: str, title: str, formula: str, reads: tuple[str, str]) -> Step:
    return Step(key, name, title, formula, reads, (), operations.added, operations.sum_cell)


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
        operations.scores,
        operations.scores_cell,
    ),
    Step(
        "pattern",
        "pattern",
        "Masked softmax",
        r"\frac{e^{s_k - \max s}}{\sum_{j \le q} e^{s_j - \max s}}",
        ("attn_scores",),
        (),
        operations.softmax,
        operations.softmax_cell,
    ),
    Step(
        "weighted_values",
        "z",
        "Weighted values",
        r"z_q = \sum_{k \le q} \mathrm{pattern}_{qk} \, v_k",
        ("pattern", "v"),
        (),
        operations.weighted_values,
        operations.weighted_values_cell,
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
        operations.gelu,
        operations.gelu_cell,
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
        operations.linear,
        operations.linear_cell,
    ),
)
STEPS: dict[str, Step] = {step.key: step for step in _ALL}
