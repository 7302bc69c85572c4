"""Direct logit attribution: how much of a logit each part of the model wrote itself.

The stream is the sum of what every part added, and a logit is linear in it except for one number: the
standard deviation that the final norm divides by. With that number frozen at its value at this position,
the logit is a sum too, with one term per part (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"; TransformerLens: `decompose_resid`, `logit_attrs`). "Direct" means that what a
part does through later parts counts as theirs.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..numerics.operations import LAYER_NORM_EPS
from ..numerics.ranking import top_ids
from ..parameters import Weights
from ..tokens import strings_of
from ..trace import Trace

Floats = NDArray[np.floating]


def frozen_scale(stream: Floats) -> NDArray[np.float64]:
    """The final norm's divisor: sqrt(variance + eps) of the last stream, [..., emb_dim] -> [...]."""
    return np.sqrt(np.asarray(stream, dtype=np.float64).var(axis=-1) + LAYER_NORM_EPS)


def attribute_logit(trace: Trace, position: int, token: int, against: int | None = None) -> pd.DataFrame:
    """Split the logit of the id `token` at `position` among the parts that wrote it, one row per part.

    With `against`, split the logit of `token` minus that of `against`. Columns: part (its name),
    kind (embed, pos_embed, head, attention_bias, mlp, norm_shift), layer, head (missing where
    there is none), contribution (in logits). The contributions sum to the logit. A head contributes its z
    times its slice of the output projection; `attention_bias` is that projection's bias; an MLP
    includes its bias; `norm_shift` is the final norm's bias through the output head. Heads, neurons and
    MLPs that the run had switched off count as what replaced them. Raises `ValueError` if whole attentions
    or shortcuts were off, because the stream is then not such a sum.
    """
    if any(name in ("attn_out", "shortcut1", "shortcut2") for name, _ in trace.changes):
        raise ValueError("This run had attentions or shortcuts switched off, so no sum of parts: run it with them on.")
    weights = trace.weights
    direction = _direction(weights, token, against)
    n_layers = trace.config["n_layers"]
    final = trace["resid_post", n_layers - 1][position]
    # gain * (x - mean(x)) / scale . direction = x . reader: subtracting the mean is linear, too
    reader = direction * weights.final_norm.gain / frozen_scale(final)
    reader = reader - reader.mean()

    rows: list[tuple[str, str, int | None, int | None, float]] = [
        ("token embedding", "embed", None, None, _dot(trace["embed"][position], reader)),
        ("positional embedding", "pos_embed", None, None, _dot(trace["pos_embed"][position], reader)),
    ]
    for layer in range(n_layers):
        z = np.asarray(trace["z", layer][position], dtype=np.float64)  # [head, head_dim]
        for head, contribution in enumerate((z * (weights.w_o(layer) @ reader)).sum(axis=-1)):
            rows.append((f"L{layer}H{head}", "head", layer, head, float(contribution)))
        bias = _dot(weights.b_o(layer), reader)
        rows.append((f"L{layer} attention bias", "attention_bias", layer, None, bias))
        rows.append((f"L{layer} MLP", "mlp", layer, None, _dot(trace["mlp_out", layer][position], reader)))
    shift = _dot(weights.final_norm.bias, direction)
    rows.append(("final norm's bias", "norm_shift", None, None, shift))
    table = pd.DataFrame(rows, columns=["part", "kind", "layer", "head", "contribution"])
    return table.astype({"layer": "Int64", "head": "Int64"})


def direct_effect(weights: Weights, written: Floats, scale: float | NDArray[np.float64] = 1.0) -> Floats:
    """Direct effect on all logits of a vector added to the stream: [..., emb_dim] -> [..., vocab_size].

    `scale` is the final norm's divisor (see `frozen_scale`) at the position where the vector is
    added; with the default of 1 the order of the tokens is right, but the sizes are not.
    """
    centred = written - np.mean(written, axis=-1, keepdims=True)
    normed = weights.final_norm.gain * centred / scale
    effect: Floats = normed.astype(np.float32) @ weights.w_u.T
    return effect


def pushed_tokens(effect: Floats, k: int = 10) -> pd.DataFrame:
    """The k tokens that an effect on all logits [vocab_size] raises most, and the k that it lowers most.

    One row per token, the most raised first, the most lowered last. Columns: token, id, effect.
    """
    ids = np.concatenate((top_ids(effect, k), top_ids(-effect, k)[::-1]))
    return pd.DataFrame({"token": strings_of(ids), "id": ids, "effect": effect[ids]})


def _direction(weights: Weights, token: int, against: int | None) -> NDArray[np.float64]:
    direction = weights.w_u[token].astype(np.float64)
    return direction if against is None else direction - weights.w_u[against]


def _dot(left: NDArray[Any], right: NDArray[np.float64]) -> float:
    return float(left.astype(np.float64) @ right)
