"""Scores for known kinds of attention head, computed from their patterns.

Patterns are [head, query, key]: each row sums to 1, and the future is 0.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64

Pattern = Float[np.ndarray, "head query key"]
Targets = Bool[np.ndarray, "query key"]  # where a head of a given kind would look


def previous_token_targets(n_tokens: int) -> Targets:
    """The token just before the query (TransformerLens, `head_detector`: previous_token_head)."""
    return np.eye(n_tokens, k=-1, dtype=bool)


def current_token_targets(n_tokens: int) -> Targets:
    """The query itself."""
    return np.eye(n_tokens, dtype=bool)


def first_token_targets(n_tokens: int) -> Targets:
    """The first position, the attention sink (Xiao et al. 2023); none for the first query, which has no choice."""
    targets = np.zeros((n_tokens, n_tokens), dtype=bool)
    targets[1:, 0] = True
    return targets


def duplicate_token_targets(ids: Sequence[int]) -> Targets:
    """Earlier positions with the query's own token (TransformerLens, `head_detector`: duplicate_token_head)."""
    return np.tril(np.equal.outer(ids, ids), k=-1)


def induction_targets(ids: Sequence[int]) -> Targets:
    """Positions just after an earlier copy of the query's token: what followed it before.

    Olsson et al. 2022, "In-context Learning and Induction Heads"; TransformerLens, `head_detector`:
    induction_head.
    """
    targets = np.zeros((len(ids), len(ids)), dtype=bool)
    targets[:, 1:] = duplicate_token_targets(ids)[:, :-1]
    return targets


def targets_by_kind(ids: Sequence[int]) -> dict[str, Targets]:
    """The targets of every kind on a text with these token ids, under the kinds' names in `head_scores`."""
    n_tokens = len(ids)
    return {
        "previous_token": previous_token_targets(n_tokens),
        "current_token": current_token_targets(n_tokens),
        "first_token": first_token_targets(n_tokens),
        "duplicate_token": duplicate_token_targets(ids),
        "induction": induction_targets(ids),
    }


def score(pattern: Pattern, targets: Targets) -> Float64[np.ndarray, " head"]:
    """Weight that each head puts on the targets, averaged over the queries that have one: 0 to 1.

    Olsson et al. (2022) and TransformerLens' demos average along a diagonal in this way, and a perfect
    head scores 1. TransformerLens' `head_detector` divides by all queries, including those without a
    target, so a perfect head scores less there. NaN if no query has a target.
    """
    asked = targets.any(axis=-1)
    if not asked.any():
        return np.full(len(pattern), np.nan)
    on_target = np.einsum("hqk,qk->hq", pattern, targets.astype(pattern.dtype))
    return on_target[:, asked].mean(axis=-1, dtype=np.float64)


def entropies(pattern: Pattern) -> Float64[np.ndarray, "head query"]:
    """Entropy of each row in nats, from 0 (all weight on one key) to ln(query + 1) (equal weights)."""
    weights = np.asarray(pattern, dtype=np.float64)
    return -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=-1)


def entropy_share(pattern: Pattern) -> Float64[np.ndarray, " head"]:
    """How spread out a head's attention is: entropy as a share of its maximum for the row, mean over queries.

    0 means all weight on one key, 1 equal weights. The first query has only one key, so it is left
    out; a single token gives NaN.
    """
    n_tokens = pattern.shape[-1]
    if n_tokens == 1:
        return np.full(len(pattern), np.nan)
    most = np.log(np.arange(2, n_tokens + 1))
    return (entropies(pattern)[:, 1:] / most).mean(axis=-1)


def mean_distance(pattern: Pattern) -> Float64[np.ndarray, " head"]:
    """How many tokens back a head looks, weighted by its attention, mean over queries."""
    positions = np.arange(pattern.shape[-1])
    back = (positions[:, None] - positions).astype(pattern.dtype)  # [query, key]
    return np.einsum("hqk,qk->hq", pattern, back).mean(axis=-1, dtype=np.float64)


def head_scores(pattern: Pattern, ids: Sequence[int]) -> pd.DataFrame:
    """All scores of one layer's heads on a text with these token ids, one row per head.

    Columns: head, previous_token, current_token, first_token, duplicate_token, induction (see
    `score`), entropy (see `entropy_share`), distance (in tokens, see `mean_distance`).
    """
    return pd.DataFrame(
        {
            "head": np.arange(len(pattern)),
            **{kind: score(pattern, targets) for kind, targets in targets_by_kind(ids).items()},
            "entropy": np.concatenate([entropy_share(one[None]) for one in pattern]),  # float64: one head at a time
            "distance": mean_distance(pattern),
        }
    )


def repeated_random_ids(n_tokens: int, *, below: int = 6000, seed: int = 0) -> tuple[int, ...]:
    """`n_tokens` different random ids, repeated once: 2 n_tokens in all.

    On such a text the only way to predict a token is to look up what followed its first copy: this is
    the test for induction heads (Olsson et al. 2022). No id repeats within a half, so each query of the
    second half has one target. All ids are less than `below`: GPT-2's ids are in the order of BPE's
    merges, so low ids are common tokens, and a small model may never have seen the others.
    Raises `ValueError` for more tokens than there are ids.
    """
    if n_tokens > below:
        raise ValueError(f"There are no {n_tokens} different ids below {below}: ask for fewer tokens.")
    drawn = np.random.default_rng(seed).choice(below, n_tokens, replace=False)
    return tuple(drawn.tolist()) * 2
