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
TOKENS_TOGETHER = 256  # in one batch of steps: more are not faster, and take memory


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
    al. 2016). It does not add up to anything: see `integrated_gradients`. Later positions have 0, and what
    the trace's run had switched off stays so. Raises `ValueError` for a trace of another engine.
    """
    trace.check_made_by(engine)
    streams = trace["resid_pre", 0][None]
    _, gradients = engine.input_gradients(streams, position, token, changes=trace.changes)
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
    difference. `progress(steps done, steps)` is told as it goes on. Later positions have 0, and what the
    trace's run had switched off stays so. Raises `ValueError` for a trace of another engine.
    """
    trace.check_made_by(engine)
    with_tokens, without = trace["resid_pre", 0], trace["pos_embed"]
    n_steps, ends = 32, []
    for stream in (with_tokens, without):
        value, _ = engine.input_gradients(stream[None], position, token, changes=trace.changes)
        ends.append(float(value[0]))
        if progress:
            progress(0, n_steps)
    difference = ends[0] - ends[1]
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
    together = max(1, TOKENS_TOGETHER // (1 + range(len(trace))[position]))
    for start in range(0, n_steps, together):
        some = slice(start, start + together)
        scale = (nodes[some, None, None] + 1) / 2
        streams = trace["pos_embed"] + scale * trace["embed"]
        _, gradients = engine.input_gradients(streams, position, token, changes=trace.changes)
        total += np.einsum("s,spd->pd", weights[some] / 2, gradients)
        if progress:
            progress(min(start + together, n_steps), n_steps)
    return total


def _along(gradients: NDArray[np.floating], embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum over the dimensions of gradient times embedding: [pos, emb_dim] twice -> [pos]."""
    return np.einsum("pd,pd->p", gradients, embeddings, dtype=np.float64)
