"""Saliency: how much each token of the text counts for one prediction, by gradients.

What counts is the token embedding: the positions stay as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import Engine
from ..trace import Trace

MOST_STEPS = 256


class Integrated(NamedTuple):
    """Integrated gradients, and how well they add up."""

    contributions: NDArray[np.float64]  # [pos], in nats
    difference: float  # log-probability with the tokens minus that without: what the contributions sum to
    n_steps: int

    @property
    def error(self) -> float:
        """How far the sum is from the difference, as a share of it."""
        return abs(float(self.contributions.sum()) - self.difference) / max(abs(self.difference), 1e-9)


def gradient_times_input(trace: Trace, engine: Engine, position: int, token: int) -> NDArray[np.float64]:
    """Gradient of the log-probability of `token` after `position`, times the token embeddings: [pos], in nats.

    The first-order guess of what would be lost without each token (Simonyan et al. 2013; Shrikumar et
    al. 2016). It does not add up to anything: see `integrated_gradients`.
    """
    _, gradients = engine.input_gradients(trace["resid_pre", 0][None], position, token)
    return _along(gradients[0], trace["embed"])


def integrated_gradients(
    trace: Trace,
    engine: Engine,
    position: int,
    token: int,
    *,
    tolerance: float = 0.005,
    progress: Callable[[int, int], object] | None = None,
) -> Integrated:
    """The mean gradient on the way from no token embeddings to the text's, times these: [pos], in nats.

    The contributions sum to the log-probability of `token` after `position` minus what it is with the
    positional embeddings alone (completeness; Sundararajan et al. 2017). The integral is Gauss and
    Legendre's; steps are doubled, up to `MOST_STEPS`, until the sum is within `tolerance` of the
    difference. `progress(steps done, steps)` is told as it goes on.
    """
    with_tokens, without = trace["resid_pre", 0], trace["pos_embed"]
    ends, _ = engine.input_gradients(np.stack((with_tokens, without)), position, token)
    difference = float(ends[0]) - float(ends[1])
    n_steps = 32
    while True:
        found = Integrated(
            _along(_mean_gradient(trace, engine, position, token, n_steps, progress), trace["embed"]),
            difference,
            n_steps,
        )
        if found.error <= tolerance or n_steps >= MOST_STEPS:
            return found
        n_steps *= 2


def _mean_gradient(
    trace: Trace,
    engine: Engine,
    position: int,
    token: int,
    n_steps: int,
    progress: Callable[[int, int], object] | None,
) -> NDArray[np.float64]:
    """[pos, emb_dim]"""
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)  # on -1 to 1; the weights sum to 2
    total = np.zeros(trace["embed"].shape)
    together = max(1, 256 // len(trace))
    for start in range(0, n_steps, together):
        some = slice(start, start + together)
        scale = (nodes[some, None, None] + 1) / 2
        _, gradients = engine.input_gradients(trace["pos_embed"] + scale * trace["embed"], position, token)
        total += np.einsum("s,spd->pd", weights[some] / 2, gradients)
        if progress:
            progress(min(start + together, n_steps), n_steps)
    return total


def _along(gradients: NDArray[np.floating], embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum over the dimensions of gradient times embedding: [pos, emb_dim] twice -> [pos]."""
    return np.einsum("pd,pd->p", gradients, embeddings, dtype=np.float64)
