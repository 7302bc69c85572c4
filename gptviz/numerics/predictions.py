"""Many predictions at once, mostly in float32. For a single one in float64, see `sampling` and `comparison`."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64


class Predictions(NamedTuple):
    """Distributions over the vocabulary."""

    logs: Float32[np.ndarray, "*batch vocab_size"]  # natural logarithms of the probabilities, without their underflow
    probabilities: Float32[np.ndarray, "*batch vocab_size"]


def predictions(logits: Float32[np.ndarray, "*batch vocab_size"], temperature: float = 1.0) -> Predictions:
    """Softmax of the logits divided by a temperature.

    Only the sum of the exponentials is float64. This is faster than float64 throughout, and probabilities are
    accurate to about 1e-6 of their value.
    """
    logs = (logits - logits.max(axis=-1, keepdims=True)) / np.float32(temperature)
    probabilities = np.exp(logs)
    total = probabilities.sum(axis=-1, keepdims=True, dtype=np.float64)
    logs -= np.log(total).astype(np.float32)
    probabilities /= total.astype(np.float32)
    return Predictions(logs, probabilities)


def entropies(some: Predictions) -> Float64[np.ndarray, "*batch"]:
    """Shannon entropy of each prediction in nats: 0 if it is sure, ln(vocab_size) if it is uniform."""
    return np.asarray(-(some.probabilities * some.logs).sum(axis=-1, dtype=np.float64))


def divergences(first: Predictions, second: Predictions) -> Float64[np.ndarray, "*batch"]:
    """KL(first || second) of each pair of predictions in nats, as `comparison.kl_divergence` but of many."""
    terms = first.probabilities * (first.logs - second.logs)
    return np.asarray(np.maximum(terms.sum(axis=-1, dtype=np.float64), 0.0))
