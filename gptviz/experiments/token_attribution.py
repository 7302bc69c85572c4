"""Token attribution: how much each token of the text counts for one prediction, by gradients.

What counts is the token embedding: the positions stay as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..engine import TOKENS_AT_ONCE
from ..hooks import replace
from ..numerics.chunks import chunks
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


def input_gradients(
    trace: Trace, streams: NDArray[np.floating], position: int, token: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log-probability in nats of `token` after `position`, and its gradient with respect to what enters block 0.

    `streams` is [variant, pos, emb_dim], such as `trace["resid_pre", 0][None]`; gives [variant] and
    [variant, pos, emb_dim]. Parts that are off in the trace are off here. Later positions have gradient 0.
    """
    values, gradients = [], []
    for some in chunks(len(streams), TOKENS_AT_ONCE // streams.shape[1]):
        with (
            trace.engine.session() as session,
            torch.inference_mode(mode=False),
            replace(session.model, trace.changes),
        ):
            x = entering = session.tensor(streams[some]).requires_grad_()
            for block in session.model.trf_blocks:
                x = block(x)
            logits = session.model.out_head(session.model.final_norm(x[:, position]))
            value = torch.log_softmax(logits, dim=-1)[:, token]
            (gradient,) = torch.autograd.grad(value.sum(), entering)
            values.append(session.array(value))
            gradients.append(session.array(gradient))
    return np.concatenate(values), np.concatenate(gradients)


def gradient_times_input(trace: Trace, position: int, token: int) -> NDArray[np.float64]:
    """Gradient of the log-probability of `token` after `position`, times the token embeddings: [pos], in nats.

    The first-order guess of what would be lost without each token (Simonyan et al. 2013; Shrikumar et
    al. 2016). It does not add up to anything: see `integrated_gradients`.
    """
    _, gradients = input_gradients(trace, trace["resid_pre", 0][None], position, token)
    return _along(gradients[0], trace["embed"])


def integrated_gradients(
    trace: Trace,
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
    ends, _ = input_gradients(trace, np.stack((with_tokens, without)), position, token)
    difference = float(ends[0]) - float(ends[1])
    n_steps = 32
    while True:
        found = Integrated(
            _along(_mean_gradient(trace, position, token, n_steps, progress), trace["embed"]),
            difference,
            n_steps,
        )
        if found.error <= tolerance or n_steps >= MOST_STEPS:
            return found
        n_steps *= 2


def _mean_gradient(
    trace: Trace,
    position: int,
    token: int,
    n_steps: int,
    progress: Callable[[int, int], object] | None,
) -> NDArray[np.float64]:
    """[pos, emb_dim]"""
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)  # on -1 to 1; the weights sum to 2
    total = np.zeros(trace["embed"].shape)
    for some in chunks(n_steps, 256 // len(trace)):
        scale = (nodes[some, None, None] + 1) / 2
        _, gradients = input_gradients(trace, trace["pos_embed"] + scale * trace["embed"], position, token)
        total += np.einsum("s,spd->pd", weights[some] / 2, gradients)
        if progress:
            progress(some.stop, n_steps)
    return total


def _along(gradients: NDArray[np.floating], embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum over the dimensions of gradient times embedding: [pos, emb_dim] twice -> [pos]."""
    return np.einsum("pd,pd->p", gradients, embeddings, dtype=np.float64)
