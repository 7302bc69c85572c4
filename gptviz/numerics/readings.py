"""Ways to read attention patterns [head, query, key]: each row sums to 1, the future is 0."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def strongest(weights: NDArray[np.floating], strings: Sequence[str], *, first: int = 0, k: int = 8) -> pd.DataFrame:
    """The k largest of some attention weights, one a row, the largest first.

    `weights` [n] are those of the positions `first`, `first` + 1, ...; `strings` are the whole
    text's tokens. Columns: position, token, weight. On a tie, the earlier position goes first.
    """
    order = np.argsort(-np.asarray(weights), kind="stable")[:k]
    positions = first + order
    return pd.DataFrame(
        {
            "position": positions,
            "token": [strings[position] for position in positions],
            "weight": np.asarray(weights)[order],
        }
    )


def without_first(pattern: Floats) -> Floats:
    """The pattern as if nothing looked at the first position: the other weights of a row sum to 1 again.

    [..., query, key] -> the same shape. A row that has no other weight, as the first, is NaN.
    """
    rest = np.array(pattern)
    rest[..., 0] = 0
    left = rest.sum(axis=-1, keepdims=True)
    return rest / np.where(left > 0, left, np.nan)


def moved_norms(v: Floats, w_o: Floats) -> Floats:
    """Length of what each head moves from each key: |v W_O|, [head, key].

    `v` is [pos, head, head_dim], `w_o` the output projection [head, head_dim, emb_dim] (`Weights.w_o`).
    """
    return np.stack([np.linalg.norm(v[:, head] @ matrix, axis=-1) for head, matrix in enumerate(w_o)])


def value_weighted(pattern: Floats, v: Floats, w_o: Floats) -> Floats:
    """Weight times the length of what it moves: [head, query, key] (Kobayashi et al. 2020, "Attention is Not Only a
    Weight"). Rows do not sum to 1: the unit is that of the residual stream. `v`, `w_o` as in `moved_norms`."""
    return pattern * moved_norms(v, w_o)[:, None, :]


def rollout(patterns: Iterable[Floats]) -> NDArray[np.float64]:
    """Where the information at each position came from, through all `patterns` [head, query, key] from layer 0 on.

    Attention rollout (Abnar and Zuidema 2020): in each layer half of a position stays (the
    shortcut), half comes by the heads' mean pattern; layers are multiplied. Gives [query, key];
    rows sum to 1. Without any pattern, a ValueError.
    """
    rolled: NDArray[np.float64] | None = None
    for pattern in patterns:
        mean = pattern.mean(axis=0, dtype=np.float64)
        mixed = (mean + np.eye(len(mean))) / 2
        rolled = mixed if rolled is None else mixed @ rolled
    if rolled is None:
        raise ValueError("rollout needs the pattern of one layer at least.")
    return rolled
