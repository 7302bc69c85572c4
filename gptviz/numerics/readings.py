"""Ways to read attention patterns [head, query, key]: each row sums to 1, and the future is 0."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64


def strongest(
    weights: Float[np.ndarray, " position"], strings: Sequence[str], *, first: int = 0, k: int = 8
) -> pd.DataFrame:
    """The k largest of some attention weights, one row per position, the largest first.

    `weights` are those of the positions `first`, `first` + 1, ...; `strings` are the whole
    text's tokens. Columns: position, token, weight. On a tie, the earlier position comes first.
    """
    order = np.argsort(-weights, kind="stable")[:k]
    positions = first + order
    return pd.DataFrame(
        {"position": positions, "token": [strings[position] for position in positions], "weight": weights[order]}
    )


def without_first(pattern: Float[np.ndarray, "*head query key"]) -> Float[np.ndarray, "*head query key"]:
    """The pattern without attention to the first position: the other weights of each row are rescaled to sum to 1.

    A row with no other weight, such as the first, is NaN.
    """
    rest = np.array(pattern)
    rest[..., 0] = 0
    left = rest.sum(axis=-1, keepdims=True)
    return rest / np.where(left > 0, left, np.nan)


def moved_norms(
    v: Float[np.ndarray, "key head head_dim"], w_o: Float[np.ndarray, "head head_dim emb_dim"]
) -> Float[np.ndarray, "head key"]:
    """Length of the vector that each head moves from each key: |v W_O|, with `w_o` as from `Weights.w_o`."""
    return np.stack([np.linalg.norm(v[:, head] @ matrix, axis=-1) for head, matrix in enumerate(w_o)])


def value_weighted(
    pattern: Float[np.ndarray, "head query key"],
    v: Float[np.ndarray, "key head head_dim"],
    w_o: Float[np.ndarray, "head head_dim emb_dim"],
) -> Float[np.ndarray, "head query key"]:
    """Each weight times the length of the vector that it moves. `v` and `w_o` are as in `moved_norms`.

    Kobayashi et al. 2020, "Attention is Not Only a Weight". Rows do not sum to 1: the unit is that of
    the residual stream.
    """
    return pattern * moved_norms(v, w_o)[:, None, :]


def rollout(patterns: Iterable[Float[np.ndarray, "head query key"]]) -> Float64[np.ndarray, "query key"]:
    """Where the information at each position came from, through all `patterns` from layer 0 on.

    Attention rollout (Abnar and Zuidema 2020): in each layer half of a position stays (the shortcut)
    and half comes through the heads' mean pattern; the layers are multiplied. Rows sum to 1.
    Raises `ValueError` without any pattern.
    """
    rolled: np.ndarray | None = None
    for pattern in patterns:
        mean = pattern.mean(axis=0, dtype=np.float64)
        mixed = (mean + np.eye(len(mean))) / 2
        rolled = mixed if rolled is None else mixed @ rolled
    if rolled is None:
        raise ValueError("rollout needs the pattern of one layer at least.")
    return rolled
