"""Ways to read attention patterns [head, query, key]: each row sums to 1, the future is 0."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64


def strongest(
    weights: Float[np.ndarray, " position"], strings: Sequence[str], *, first: int = 0, k: int = 8
) -> pd.DataFrame:
    """The k largest of some attention weights, one a row, the largest first.

    `weights` are those of the positions `first`, `first` + 1, ...; `strings` are the whole
    text's tokens. Columns: position, token, weight. On a tie, the earlier position goes first.
    """
    order = np.argsort(-weights, kind="stable")[:k]
    positions = first + order
    return pd.DataFrame(
        {"position": positions, "token": [strings[position] for position in positions], "weight": weights[order]}
    )


def without_first(pattern: Float[np.ndarray, "*head query key"]) -> Float[np.ndarray, "*head query key"]:
    """The pattern as if nothing looked at the first position: the other weights of a row sum to 1 again.

    A row that has no other weight, such as the first, is NaN.
    """
    rest = np.array(pattern)
    rest[..., 0] = 0
    left = rest.sum(axis=-1, keepdims=True)
    return rest / np.where(left > 0, left, np.nan)


def moved_norms(
    v: Float[np.ndarray, "key head head_dim"], w_o: Float[np.ndarray, "head head_dim emb_dim"]
) -> Float[np.ndarray, "head key"]:
    """Length of what each head moves from each key: |v W_O|, with the output projection `Weights.w_o`."""
    return np.stack([np.linalg.norm(v[:, head] @ matrix, axis=-1) for head, matrix in enumerate(w_o)])


def value_weighted(
    pattern: Float[np.ndarray, "head query key"],
    v: Float[np.ndarray, "key head head_dim"],
    w_o: Float[np.ndarray, "head head_dim emb_dim"],
) -> Float[np.ndarray, "head query key"]:
    """Weight times the length of what it moves (Kobayashi et al. 2020, "Attention is Not Only a
    Weight"). Rows do not sum to 1: the unit is that of the residual stream. `v`, `w_o` as in `moved_norms`."""
    return pattern * moved_norms(v, w_o)[:, None, :]


def rollout(patterns: Iterable[Float[np.ndarray, "head query key"]]) -> Float64[np.ndarray, "query key"]:
    """Where the information at each position came from, through all `patterns` from layer 0 on.

    Attention rollout (Abnar and Zuidema 2020): in each layer half of a position stays (the
    shortcut), half comes by the heads' mean pattern; layers are multiplied. Rows
    sum to 1. Without any pattern, a ValueError.
    """
    rolled: np.ndarray | None = None
    for pattern in patterns:
        mean = pattern.mean(axis=0, dtype=np.float64)
        mixed = (mean + np.eye(len(mean))) / 2
        rolled = mixed if rolled is None else mixed @ rolled
    if rolled is None:
        raise ValueError("rollout needs the pattern of one layer at least.")
    return rolled
