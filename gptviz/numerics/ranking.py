"""The order of the vocabulary by logits: who is on top, and who comes where. On a tie, the lower id is first."""

import numpy as np
from numpy.typing import NDArray

_FEW = 200  # so many searches for the highest are still faster than a sort of GPT-2's vocabulary


def ranks(logits: NDArray[np.floating], ids: NDArray[np.integer]) -> NDArray[np.int64]:
    """Place of `ids` [...] in the order of `logits` [..., vocab_size]: [...], 1 for the highest."""
    own = np.take_along_axis(logits, ids[..., None], axis=-1)
    tied_before = (logits == own) & (np.arange(logits.shape[-1]) < ids[..., None])
    return 1 + ((logits > own) | tied_before).sum(axis=-1)


def top_ids(logits: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """The k ids with the highest logits, the highest first: [..., vocab_size] -> [..., k]."""
    if k > _FEW or np.isneginf(logits).any():  # below, minus infinity stands for what was found already
        return np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    left = np.array(logits)
    found = np.empty((*left.shape[:-1], min(k, left.shape[-1])), dtype=np.int64)
    for place in range(found.shape[-1]):
        found[..., place] = left.argmax(axis=-1)
        np.put_along_axis(left, found[..., place, None], -np.inf, axis=-1)
    return found
