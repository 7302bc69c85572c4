"""A model's attention heads: their scores and patterns on a text, and their direct effect on the logits."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..numerics.head_kinds import head_scores
from ..numerics.operations import layer_norm
from ..numerics.readings import rollout
from ..numerics.tiles import pool
from ..parameters import Weights
from ..trace import Trace
from .logit_attribution import direct_effect

Floats = NDArray[np.floating]


def all_head_scores(trace: Trace) -> pd.DataFrame:
    """`head_scores` of every layer, one row per head of the model, with layer as the first column."""
    tables = []
    for layer in range(trace.config["n_layers"]):
        table = head_scores(trace["pattern", layer], trace.tokens.ids)
        table.insert(0, "layer", layer)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def all_tiles(trace: Trace, factor: int) -> NDArray[np.uint8]:
    """Pooled patterns of all heads: [layer, head, side, side]. Only one layer's full pattern is held at a time."""
    return np.stack([pool(trace["pattern", layer], factor) for layer in range(trace.config["n_layers"])])


def rollout_to(trace: Trace, layer: int) -> NDArray[np.float64]:
    """`rollout` through all layers up to this one: [query, key]."""
    return rollout(trace["pattern", below] for below in range(layer + 1))


def value_of_token(weights: Weights, layer: int, head: int, token: int) -> NDArray[np.float64]:
    """The value [head_dim] that a head would compute from a token embedding alone, after the block's first norm.

    This is the OV circuit of Elhage et al. (2021): W_E W_V. For a token in a text, use
    `trace["v", layer][position, head]`, which includes what earlier blocks added.
    """
    value: NDArray[np.float64] = weights.w_v(layer)[head] @ layer_norm(weights.w_e[token], *weights.norm1(layer))
    bias = weights.b_v(layer)
    return value if bias is None else value + bias[head]


def ov_effect(weights: Weights, layer: int, head: int, value: Floats, scale: float = 1.0) -> Floats:
    """Direct effect of a head on all logits when it attends with weight 1 to a key with this `value` [head_dim].

    Returns [vocab_size]: value W_O, through the final norm and the output head. `scale` is as in
    `logit_attribution.direct_effect`, at the query's position; `logit_attribution.pushed_tokens` names the tokens.
    """
    return direct_effect(weights, value @ weights.w_o(layer)[head], scale)
