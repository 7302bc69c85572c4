"""Ranking of the vocabulary by logits. On a tie, the lower id comes first."""

import numpy as np
from jaxtyping import Float, Int, Int64


def ranks(
    logits: Float[np.ndarray, "*batch vocab_size"], ids: Int[np.ndarray, "*batch"]
) -> Int64[np.ndarray, "*batch"]:
    """Rank of each id by its logit: 1 is the highest."""
    own = np.take_along_axis(logits, ids[..., None], axis=-1)
    tied_before = (logits == own) & (np.arange(logits.shape[-1]) < ids[..., None])
    return np.asarray(1 + ((logits > own) | tied_before).sum(axis=-1))


def top_ids(logits: Float[np.ndarray, "*batch vocab_size"], k: int) -> Int64[np.ndarray, "*batch k"]:
    """The k ids with the highest logits, the highest first; all ids if there are fewer than k."""
    k = min(k, logits.shape[-1])
    rows = [_top_of_row(row, k) for row in logits.reshape(-1, logits.shape[-1])]
    return np.array(rows, dtype=np.int64).reshape(*logits.shape[:-1], k)


def _top_of_row(row: Float[np.ndarray, " vocab_size"], k: int) -> Int64[np.ndarray, " k"]:
    lowest = np.partition(row, -k)[-k]
    candidates = np.flatnonzero(~(row < lowest))  # NaN counts as the highest, as in NumPy's sorting
    ascending = np.argsort(row[candidates][::-1], kind="stable")
    return candidates[len(candidates) - 1 - ascending[::-1]][:k]
