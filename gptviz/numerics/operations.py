"""GPT-2's operations in float64, each for whole rows and for one cell, with a bound on the rounding.

Every value comes with its size, the sum of the absolute values of its terms, which bounds the rounding error.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .chunks import chunks

Float64 = NDArray[np.float64]
Parts = dict[str, Float64]  # by name; a single number is a 0-d array

LAYER_NORM_EPS = 1e-5  # the same in every GPT-2
_WEIGHT_ROWS_AT_ONCE = 8192  # the whole output head in float64 would take 300 MB


class Recomputed(NamedTuple):
    """Cells in float64, and the size of each: the sum of the absolute values of its terms."""

    value: Float64
    size: Float64


class Working(NamedTuple):
    """One cell's arithmetic: its operands, intermediate values, result and size."""

    operands: Parts
    intermediates: Parts
    value: float
    size: float  # as in `Recomputed`


def _float64(array: Any) -> Float64:
    return np.asarray(array, dtype=np.float64)


def layer_norm(x: NDArray[Any], gain: NDArray[Any], bias: NDArray[Any]) -> Float64:
    """gain * (x - mean) / sqrt(variance + eps) + bias over the last axis (Ba et al. 2016), in float64."""
    x = _float64(x)
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return gain * (x - mean) / np.sqrt(variance + LAYER_NORM_EPS) + bias


def norm(rows: slice, stream: NDArray[Any], gain: NDArray[Any], bias: NDArray[Any]) -> Recomputed:
    """LayerNorm of `rows` of the stream."""
    x = _float64(stream[rows])
    scale = np.sqrt(x.var(axis=-1, keepdims=True) + LAYER_NORM_EPS)
    terms = np.abs(x) + np.abs(x).mean(axis=-1, keepdims=True)
    return Recomputed(layer_norm(x, gain, bias), np.abs(gain) * terms / scale + np.abs(bias))


def norm_cell(index: tuple[int, ...], stream: NDArray[Any], gain: NDArray[Any], bias: NDArray[Any]) -> Working:
    """LayerNorm of one dimension at one position."""
    position, dim = index
    x = _float64(stream[position])
    operands = {"x": x, "gain": _float64(gain[dim]), "bias": _float64(bias[dim]), "eps": _float64(LAYER_NORM_EPS)}
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    normalised = (x[dim] - mean) / np.sqrt(variance + LAYER_NORM_EPS)
    intermediates = {"mean": mean, "variance": variance, "x at this dimension": x[dim], "normalised": normalised}
    gained = abs(gain[dim]) * (abs(x[dim]) + np.abs(x).mean()) / np.sqrt(variance + LAYER_NORM_EPS)
    return Working(operands, intermediates, float(gain[dim] * normalised + bias[dim]), float(gained + abs(bias[dim])))


def linear(rows: slice, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None) -> Recomputed:
    """x W^T + b for `rows` of x; separate heads are joined first."""
    x = _float64(x[rows])
    x = x.reshape(len(x), weight.shape[1])  # joins the heads of z
    value, size = np.empty((2, len(x), len(weight)))
    for columns in chunks(len(weight), _WEIGHT_ROWS_AT_ONCE):
        part = _float64(weight[columns])
        value[:, columns] = x @ part.T
        size[:, columns] = np.abs(x) @ np.abs(part).T
    if bias is None:
        return Recomputed(value, size)
    return Recomputed(value + bias, size + np.abs(bias))


def linear_cell(
    index: tuple[int, ...], x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None
) -> Working:
    """One output of a linear layer at one position."""
    position, row = index
    return _sum_of_products({"x": x[position].ravel(), "weight": weight[row]}, None if bias is None else bias[row])


def scores(rows: slice, q: NDArray[Any], k: NDArray[Any]) -> Recomputed:
    """q . k / sqrt(head_dim) for the heads in `rows`: [head, query, key]."""
    q, k = _by_head(q, rows), _by_head(k, rows)
    root = np.sqrt(q.shape[-1])
    return Recomputed(q @ k.mT / root, np.abs(q) @ np.abs(k).mT / root)


def scores_cell(index: tuple[int, ...], q: NDArray[Any], k: NDArray[Any]) -> Working:
    """One attention score."""
    head, query, key = index
    working = _sum_of_products({"q": q[query, head], "k": k[key, head]})
    root = np.sqrt(q.shape[-1])
    intermediates = working.intermediates | {"sqrt(head_dim)": _float64(root)}
    return Working(working.operands, intermediates, working.value / root, working.size / root)


def softmax(rows: slice, scores: NDArray[Any]) -> Recomputed:
    """Softmax of the scores of the heads in `rows`, with the future masked: [head, query, key]."""
    scores = _float64(scores[rows])
    below = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    below = below - below.max(axis=-1, keepdims=True)
    exponentials = np.exp(below)
    value = exponentials / exponentials.sum(axis=-1, keepdims=True)
    # Rounding the exponent causes an error relative to the weight, which grows with the size of the exponent.
    size = value * (2 + np.abs(np.where(np.isfinite(below), below, 0)))
    return Recomputed(value, size)


def softmax_cell(index: tuple[int, ...], scores: NDArray[Any]) -> Working:
    """One attention weight."""
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


def weighted_values(rows: slice, pattern: NDArray[Any], v: NDArray[Any]) -> Recomputed:
    """Sum of the values weighted by the pattern, for the queries in `rows`: [query, head, head_dim]."""
    value, size = [], []
    for head in range(len(pattern)):
        weights, values = _float64(pattern[head, rows]), _float64(v[:, head])
        value.append(weights @ values)
        size.append(_size_of_weights(weights) @ np.abs(values))
    return Recomputed(np.stack(value, axis=1), np.stack(size, axis=1))


def weighted_values_cell(index: tuple[int, ...], pattern: NDArray[Any], v: NDArray[Any]) -> Working:
    """One number of z."""
    query, head, dim = index
    working = _sum_of_products({"weights": pattern[head, query, : query + 1], "values": v[: query + 1, head, dim]})
    weights, values = working.operands.values()
    return working._replace(size=float(_size_of_weights(weights) @ np.abs(values)))


def _size_of_weights(weights: Float64) -> Float64:
    """Size of each weight, as in `softmax`: PyTorch's fused kernel, which computes most z, rounds them differently."""
    return weights * (2 + np.abs(np.log(np.where(weights > 0, weights, 1))))


def added(rows: slice, stream: NDArray[Any], added: NDArray[Any]) -> Recomputed:
    """The stream plus what is added to it, for `rows`."""
    stream, added = _float64(stream[rows]), _float64(added[rows])
    return Recomputed(stream + added, np.abs(stream) + np.abs(added))


def sum_cell(index: tuple[int, ...], stream: NDArray[Any], added: NDArray[Any]) -> Working:
    """One number of the sum in `added`."""
    operands = {"stream": _float64(stream[index]), "added": _float64(added[index])}
    size = np.abs(operands["stream"]) + np.abs(operands["added"])
    return Working(operands, {}, float(operands["stream"] + operands["added"]), float(size))


def gelu(rows: slice, pre: NDArray[Any]) -> Recomputed:
    """GELU of `rows`, in the tanh approximation that GPT-2 uses (Hendrycks and Gimpel 2016)."""
    x = _float64(pre[rows])
    bent = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return Recomputed(bent, np.abs(x))  # 1 + tanh cancels where x is far below 0


def gelu_cell(index: tuple[int, ...], pre: NDArray[Any]) -> Working:
    """One neuron's GELU."""
    x = _float64(pre[index])
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    tanh = np.tanh(inner)
    intermediates = {"sqrt(2/pi) (x + 0.044715 x^3)": inner, "tanh": tanh}
    return Working({"x": x}, intermediates, float(0.5 * x * (1 + tanh)), float(abs(x)))


def _by_head(array: NDArray[Any], heads: slice) -> Float64:
    """[pos, head, head_dim] -> [head, pos, head_dim], for these heads only."""
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
