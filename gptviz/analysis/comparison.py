"""Two predictions side by side: before and after, one text and another, one model and another."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .ranking import strings_of, top_ids
from .sampling import log_softmax


def compare_next_tokens(first: NDArray[np.floating], second: NDArray[np.floating], k: int = 10) -> pd.DataFrame:
    """The k most probable tokens of each of two predictions [vocab_size], one token a row.

    The first's come first, in its order. Columns: token, id, first and second (probabilities over the
    whole vocabulary), change (second minus first, of log-probabilities in nats).
    """
    ids = np.array(list(dict.fromkeys([*top_ids(first, k).tolist(), *top_ids(second, k).tolist()])))
    logs = log_softmax(first)[ids], log_softmax(second)[ids]
    return pd.DataFrame(
        {
            "token": strings_of(ids),
            "id": ids,
            "first": np.exp(logs[0]),
            "second": np.exp(logs[1]),
            "change": logs[1] - logs[0],
        }
    )


def kl_divergence(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """How much the second prediction misses of the first, in nats: KL(first || second) of two logits [vocab_size].

    0 where they are the same, and never below (Kullback and Leibler 1951). Not the same both ways round.
    """
    logs = log_softmax(first), log_softmax(second)
    return max(0.0, float(np.sum(np.exp(logs[0]) * (logs[0] - logs[1]))))
