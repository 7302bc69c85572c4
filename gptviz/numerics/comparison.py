"""How far apart two predictions are."""

import numpy as np
from jaxtyping import Float

from .sampling import log_softmax


def kl_divergence(first: Float[np.ndarray, " vocab_size"], second: Float[np.ndarray, " vocab_size"]) -> float:
    """How much the second prediction misses of the first, in nats: KL(first || second) of two logits.

    0 where they are the same, and never below (Kullback and Leibler 1951). Not the same both ways round.
    """
    logs = log_softmax(first), log_softmax(second)
    return max(0.0, float(np.sum(np.exp(logs[0]) * (logs[0] - logs[1]))))
