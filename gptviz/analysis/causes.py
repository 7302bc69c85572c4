"""What a head causes: how the prediction changes when that head alone is switched off."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import Engine
from ..trace import Trace
from .sampling import log_softmax

Replacement = Literal["zero", "mean"]


def log_probability(trace: Trace, position: int, token: int) -> float:
    """Natural logarithm of the probability of `token` after `position`."""
    return float(log_softmax(trace.logits_at(position))[token])


def head_effects(
    trace: Trace,
    engine: Engine,
    position: int,
    token: int,
    replacement: Replacement = "zero",
    progress: Callable[[int, int], object] | None = None,
) -> NDArray[np.float64]:
    """Change of the log-probability of `token` after `position` without each head: [layer, head], in nats.

    Below 0 the head helped the token. A head is switched off at z, before the output projection
    mixes it with the others (TransformerLens: `hook_z`): its z is 0, or its mean over the text's
    positions. `progress(layers done, layers)` is told after each layer.
    """
    before = log_probability(trace, position, token)
    layers = range(trace.config["n_layers"])
    effects = np.empty((len(layers), trace.config["n_heads"]))
    for layer in layers:
        streams = engine.streams_without_heads(trace, layer, replacement, last_position=position)
        effects[layer] = log_softmax(engine.unembed(streams))[:, token] - before
        if progress:
            progress(layer + 1, len(layers))
    return effects
