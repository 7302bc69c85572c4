"""Difference between two predictions."""

import numpy as np
from jaxtyping import Float

from .sampling import log_softmax


def kl_divergence(first: Float[np.ndarray, " vocab_size"], second: Float[np.ndarray, " vocab_size"]) -> float:
    """Kullback-Leibler divergence KL(first || second) of two predictions given as logits, in nats.

    Zero if they are the same, never negative, and not symmetric (Kullback and Leibler 1951).
    """
    logs = log_softmax(first), log_softmax(second)
    return max(0.0, float(np.sum(np.exp(logs[0]) * (logs[0] - logs[1]))))
