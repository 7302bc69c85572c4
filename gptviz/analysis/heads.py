"""What attention heads do: scores for known kinds of head, and other ways to read a pattern.

Patterns are [head, query, key]: each row sums to 1, the future is 0.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..engine import Engine
from ..trace import Trace
from .arithmetic import layer_norm
from .attribution import direct_effect

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]  # [query, key]: where a head of some kind would look

# --- kinds of head -----------------------------------------------------------------------------


def previous_token_targets(n_tokens: int) -> Mask:
    """The token just before the query (TransformerLens, `head_detector`: previous_token_head)."""
    return np.eye(n_tokens, k=-1, dtype=bool)


def current_token_targets(n_tokens: int) -> Mask:
    """The query itself."""
    return np.eye(n_tokens, dtype=bool)


def first_token_targets(n_tokens: int) -> Mask:
    """The first position, the attention sink (Xiao et al. 2023); the first query has no choice, and none."""
    targets = np.zeros((n_tokens, n_tokens), dtype=bool)
    targets[1:, 0] = True
    return targets


def duplicate_token_targets(ids: Sequence[int]) -> Mask:
    """Earlier positions with the query's own token (TransformerLens, `head_detector`: duplicate_token_head)."""
    return np.tril(np.equal.outer(ids, ids), k=-1)


def induction_targets(ids: Sequence[int]) -> Mask:
    """Positions just after an earlier copy of the query's token: what came next the last time.

    Olsson et al. 2022, "In-context Learning and Induction Heads"; TransformerLens, `head_detector`:
    induction_head.
    """
    targets = np.zeros((len(ids), len(ids)), dtype=bool)
    targets[:, 1:] = duplicate_token_targets(ids)[:, :-1]
    return targets


def score(pattern: Floats, targets: Mask) -> NDArray[np.float64]:
    """Weight that each head puts on the targets, as a mean over the queries that have one: [head], 0 to 1.

    Olsson et al. (2022) and TransformerLens' demos average so along a diagonal, and a perfect head
    scores 1. TransformerLens' `head_detector` divides by all queries, those without a target too,
    so a perfect head scores less there. NaN where no query has a target.
    """
    asked = targets.any(axis=-1)
    if not asked.any():
        return np.full(len(pattern), np.nan)
    on_target = np.einsum("hqk,qk->hq", pattern, targets.astype(pattern.dtype))
    return on_target[:, asked].mean(axis=-1, dtype=np.float64)


def entropies(pattern: Floats) -> NDArray[np.float64]:
    """Entropy of each row in nats: [head, query]. From 0, all on one key, to ln(query + 1), all keys alike."""
    weights = np.asarray(pattern, dtype=np.float64)
    return -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=-1)


def entropy_share(pattern: Floats) -> NDArray[np.float64]:
    """How spread out a head looks: entropy as a share of the most that the row can have, mean over queries: [head].

    0 is all on one key, 1 all keys alike. The first query has one key and no choice: it is left
    out, and NaN is all that a single token has.
    """
    n_tokens = pattern.shape[-1]
    if n_tokens == 1:
        return np.full(len(pattern), np.nan)
    most = np.log(np.arange(2, n_tokens + 1))
    return (entropies(pattern)[:, 1:] / most).mean(axis=-1)


def mean_distance(pattern: Floats) -> NDArray[np.float64]:
    """How many tokens back a head looks, weighted by its attention, mean over queries: [head]."""
    positions = np.arange(pattern.shape[-1])
    back = (positions[:, None] - positions).astype(pattern.dtype)  # [query, key]
    return np.einsum("hqk,qk->hq", pattern, back).mean(axis=-1, dtype=np.float64)


def head_scores(pattern: Floats, ids: Sequence[int]) -> pd.DataFrame:
    """All scores of one layer's heads on a text with these token ids, one head a row.

    Columns: head, previous_token, current_token, first_token, duplicate_token, induction (see
    `score`), entropy (see `entropy_share`), distance (in tokens, see `mean_distance`).
    """
    n_tokens = len(ids)
    return pd.DataFrame(
        {
            "head": np.arange(len(pattern)),
            "previous_token": score(pattern, previous_token_targets(n_tokens)),
            "current_token": score(pattern, current_token_targets(n_tokens)),
            "first_token": score(pattern, first_token_targets(n_tokens)),
            "duplicate_token": score(pattern, duplicate_token_targets(ids)),
            "induction": score(pattern, induction_targets(ids)),
            "entropy": np.concatenate([entropy_share(one[None]) for one in pattern]),  # float64, so head by head
            "distance": mean_distance(pattern),
        }
    )


def all_head_scores(trace: Trace) -> pd.DataFrame:
    """`head_scores` of every layer, one head of the model a row; a column layer comes first."""
    tables = []
    for layer in range(trace.config["n_layers"]):
        table = head_scores(trace["pattern", layer], trace.tokens.ids)
        table.insert(0, "layer", layer)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def repeated_random_ids(n_tokens: int, *, below: int = 6000, seed: int = 0) -> tuple[int, ...]:
    """`n_tokens` different random ids, and the same again: 2 n_tokens.

    On such a text the only way to foresee a token is to look up what followed its first copy: the
    test for induction heads (Olsson et al. 2022). No id repeats within a half, so each query of
    the second has one target. Ids are `below` a limit, for GPT-2's stand in the order in which BPE
    merged them: the low ones are common, and a small model may never have seen the others.
    Raises `ValueError` for more tokens than there are ids.
    """
    if n_tokens > below:
        raise ValueError(f"There are no {n_tokens} different ids below {below}: ask for fewer tokens.")
    drawn = np.random.default_rng(seed).choice(below, n_tokens, replace=False)
    return tuple(drawn.tolist()) * 2


# --- readings of a pattern ---------------------------------------------------------------------


def without_first(pattern: Floats) -> Floats:
    """The pattern as if nothing looked at the first position: the other weights of a row sum to 1 again.

    [..., query, key] -> the same shape. A row that has no other weight, as the first, is NaN.
    """
    rest = np.array(pattern)
    rest[..., 0] = 0
    left = rest.sum(axis=-1, keepdims=True)
    return rest / np.where(left > 0, left, np.nan)


def moved_norms(v: Floats, out_proj: Floats) -> Floats:
    """Length of what each head moves from each key: |v W_O|, [head, key].

    `v` is [pos, head, head_dim], `out_proj` the output projection's weight [emb_dim, emb_dim] as
    torch keeps it, [out, in].
    """
    return np.stack([np.linalg.norm(_moved(v, out_proj, head), axis=-1) for head in range(v.shape[1])])


def value_weighted(pattern: Floats, v: Floats, out_proj: Floats) -> Floats:
    """Weight times the length of what it moves: [head, query, key] (Kobayashi et al. 2020, "Attention is Not Only a
    Weight"). Rows do not sum to 1: the unit is that of the residual stream. `v`, `out_proj` as in `moved_norms`."""
    return pattern * moved_norms(v, out_proj)[:, None, :]


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


# --- what a head writes ------------------------------------------------------------------------


def value_of_token(engine: Engine, layer: int, head: int, token: int) -> NDArray[np.float64]:
    """The value [head_dim] that a head would take from a bare token embedding, as the block's first norm sees it.

    This is the OV circuit of Elhage et al. (2021): W_E W_V. For a token in its place in a text,
    take `trace["v", layer][position, head]`, which holds what earlier blocks added.
    """
    block = f"trf_blocks.{layer}"
    normed = layer_norm(
        engine.weight("tok_emb.weight")[token],
        engine.weight(f"{block}.norm1.scale"),
        engine.weight(f"{block}.norm1.shift"),
    )
    head_dim = engine.config["emb_dim"] // engine.config["n_heads"]
    rows = slice(head * head_dim, (head + 1) * head_dim)
    value = engine.weight(f"{block}.att.W_value.weight")[rows].astype(np.float64) @ normed
    if engine.config["qkv_bias"]:
        value = value + engine.weight(f"{block}.att.W_value.bias")[rows]
    return value


def ov_effect(engine: Engine, layer: int, head: int, value: Floats, scale: float = 1.0) -> Floats:
    """What a head does to all logits, directly, when it looks with weight 1 at a key with this `value` [head_dim].

    Gives [vocab_size]: value W_O, through the final norm and the output head. `scale` as in
    `attribution.direct_effect`, taken where the query is; `attribution.pushed_tokens` names the tokens.
    """
    out_proj = engine.weight(f"trf_blocks.{layer}.att.out_proj.weight")
    columns = slice(head * len(value), (head + 1) * len(value))
    return direct_effect(engine, out_proj[:, columns] @ value, scale)


def _moved(v: Floats, out_proj: Floats, head: int) -> Floats:
    """What a head would add to the stream for each key, at weight 1: [key, emb_dim]."""
    head_dim = v.shape[-1]
    return v[:, head] @ out_proj[:, head * head_dim : (head + 1) * head_dim].T
