"""Head ablation: how the prediction changes when a single head is switched off."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import TOKENS_AT_ONCE
from ..hooks import Key
from ..interventions import Part
from ..numerics.chunks import chunks
from ..numerics.sampling import log_softmax
from ..trace import Trace
from .portions import Run, run_all

Replacement = Literal["zero", "mean"]


def log_probability(trace: Trace, position: int, token: int) -> float:
    """Natural logarithm of the probability of `token` after `position`."""
    return float(log_softmax(trace.logits_at(position))[token])


def head_effects(
    trace: Trace, position: int, token: int, replacement: Replacement = "zero", run: Run = run_all
) -> NDArray[np.float64]:
    """Change of the log-probability of `token` after `position` without each head: [layer, head], in nats.

    If it is negative, the head helped the token. A head is switched off at z, before the output
    projection mixes it with the others (TransformerLens: `hook_z`): its z becomes 0, or its mean over
    the text's positions. Parts that are off in the trace stay off.
    """
    n_all = trace.config["n_layers"] * trace.config["n_heads"]
    portions = [
        (trace, position, token, replacement, range(some.start, some.stop))
        for some in chunks(n_all, TOKENS_AT_ONCE // (position + 1))
    ]
    return np.concatenate(run(effects_of_heads, portions)).reshape(trace.config["n_layers"], -1)


def head_effect(
    trace: Trace, position: int, token: int, layer: int, head: int, replacement: Replacement = "zero"
) -> float:
    """`head_effects` of one head alone, in nats. Takes one pass of the layers that follow."""
    number = layer * trace.config["n_heads"] + head
    return float(effects_of_heads(trace, position, token, replacement, range(number, number + 1))[0])


def effects_of_heads(
    trace: Trace, position: int, token: int, replacement: Replacement, heads: range
) -> NDArray[np.float64]:
    """`head_effects` of some heads, numbered across all layers: [head]. Takes one pass of the layers that follow."""
    n_heads = trace.config["n_heads"]
    variants: dict[Key, NDArray[np.float32]] = {}
    for layer in range(heads.start // n_heads, -(-heads.stop // n_heads)):
        some = slice(max(0, heads.start - layer * n_heads), heads.stop - layer * n_heads)
        variants["resid_mid", layer] = streams_without_heads(trace, layer, replacement, position)[some]
    logits = trace.unembed(trace.resume(variants))
    return _log_probabilities(logits, token) - log_probability(trace, position, token)


def streams_without_heads(
    trace: Trace, layer: int, replacement: Replacement, last_position: int
) -> NDArray[np.float32]:
    """The stream after a block's attention without each of its heads in turn: [head, pos, emb_dim].

    A head adds its z times its slice of the output projection, so removing it is a subtraction.
    Positions after `last_position` are left out, because they cannot affect it. If this attention is off in
    the trace, no head reaches the stream, and all rows are the same.
    """
    seen = slice(last_position + 1)
    z = trace["z", layer]  # [pos, head, head_dim]
    taken = z[seen] if replacement == "zero" else z[seen] - z.mean(axis=0)
    return trace["resid_mid", layer][seen] - written_by_heads(trace, layer, taken)


def written_by_heads(trace: Trace, layer: int, z: NDArray[np.floating]) -> NDArray[np.float32]:
    """What each head adds to the stream: z [pos, head, head_dim] -> [head, pos, emb_dim], without the bias.

    It is 0 if the whole attention is off in the trace.
    """
    written: NDArray[np.float32] = np.matmul(z.transpose(1, 0, 2), trace.weights.w_o(layer))
    return np.zeros_like(written) if Part("attention", layer) in trace.off else written


def _log_probabilities(logits: NDArray[np.float32], token: int) -> NDArray[np.float64]:
    """`log_softmax` of [row, vocab_size], but only at `token`: exponentials in float32, their sum in float64."""
    highest = logits.max(axis=-1)
    total = np.exp(logits - highest[:, None]).sum(axis=-1, dtype=np.float64)
    return logits[:, token].astype(np.float64) - highest - np.log(total)
