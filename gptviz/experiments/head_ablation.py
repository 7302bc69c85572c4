"""What a head causes: how the prediction changes when that head alone is switched off."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import TOKENS_AT_ONCE
from ..interventions import Part
from ..numerics.chunks import chunks
from ..numerics.sampling import log_softmax
from ..trace import Trace

Replacement = Literal["zero", "mean"]


def log_probability(trace: Trace, position: int, token: int) -> float:
    """Natural logarithm of the probability of `token` after `position`."""
    return float(log_softmax(trace.logits_at(position))[token])


def head_effects(
    trace: Trace,
    position: int,
    token: int,
    replacement: Replacement = "zero",
    progress: Callable[[int, int], object] | None = None,
) -> NDArray[np.float64]:
    """Change of the log-probability of `token` after `position` without each head: [layer, head], in nats.

    Below 0 the head helped the token. A head is switched off at z, before the output projection
    mixes it with the others (TransformerLens: `hook_z`): its z is 0, or its mean over the text's
    positions. `progress(layers done, layers)` is told as it goes on.
    """
    before = log_probability(trace, position, token)
    n_layers, n_heads = trace.config["n_layers"], trace.config["n_heads"]
    effects = np.empty((n_layers, n_heads))
    for layers in chunks(n_layers, TOKENS_AT_ONCE // (n_heads * (position + 1))):
        streams = trace.resume(
            {
                ("resid_mid", layer): streams_without_heads(trace, layer, replacement, position)
                for layer in range(layers.start, layers.stop)
            }
        )
        effects[layers] = (_log_probabilities(trace.unembed(streams), token) - before).reshape(-1, n_heads)
        if progress:
            progress(layers.stop, n_layers)
    return effects


def streams_without_heads(
    trace: Trace, layer: int, replacement: Replacement, last_position: int
) -> NDArray[np.float32]:
    """The stream after a block's attention, once without each of its heads: [head, pos, emb_dim].

    What a head adds is its z times its part of the output projection, so this is a subtraction.
    Later tokens than `last_position` are left out: they cannot change what it sees. Where the trace's attention is
    off, no head reaches the stream, and all are the same.
    """
    seen = slice(last_position + 1)
    z = trace["z", layer]  # [pos, head, head_dim]
    taken = z[seen] if replacement == "zero" else z[seen] - z.mean(axis=0)
    return trace["resid_mid", layer][seen] - written_by_heads(trace, layer, taken)


def written_by_heads(trace: Trace, layer: int, z: NDArray[np.floating]) -> NDArray[np.float32]:
    """What each head adds to the stream: z [pos, head, head_dim] -> [head, pos, emb_dim], without the bias.

    It is 0 where the trace's whole attention is off.
    """
    written: NDArray[np.float32] = np.matmul(z.transpose(1, 0, 2), trace.weights.w_o(layer))
    return np.zeros_like(written) if Part("attention", layer) in trace.off else written


def _log_probabilities(logits: NDArray[np.float32], token: int) -> NDArray[np.float64]:
    """`log_softmax` of [row, vocab_size], but only at `token`: exponentials in float32, their sum in float64."""
    highest = logits.max(axis=-1)
    total = np.exp(logits - highest[:, None]).sum(axis=-1, dtype=np.float64)
    return logits[:, token].astype(np.float64) - highest - np.log(total)
