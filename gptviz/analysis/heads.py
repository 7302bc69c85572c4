"""What the attention heads of a model do on a text, and what they write to the logits."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..engine import Engine
from ..numerics.head_kinds import head_scores
from ..numerics.tiles import pool
from ..trace import Trace
from .arithmetic import layer_norm
from .logit_attribution import direct_effect

Floats = NDArray[np.floating]


def all_head_scores(trace: Trace) -> pd.DataFrame:
    """`head_scores` of every layer, one head of the model a row; a column layer comes first."""
    tables = []
    for layer in range(trace.config["n_layers"]):
        table = head_scores(trace["pattern", layer], trace.tokens.ids)
        table.insert(0, "layer", layer)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def all_tiles(trace: Trace, factor: int) -> NDArray[np.uint8]:
    """Every head of every layer, pooled: [layer, head, side, side]. One layer's full pattern is held at a time."""
    return np.stack([pool(trace["pattern", layer], factor) for layer in range(trace.config["n_layers"])])


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
    `logit_attribution.direct_effect`, taken where the query is; `logit_attribution.pushed_tokens` names the tokens.
    """
    out_proj = engine.weight(f"trf_blocks.{layer}.att.out_proj.weight")
    columns = slice(head * len(value), (head + 1) * len(value))
    return direct_effect(engine, out_proj[:, columns] @ value, scale)
