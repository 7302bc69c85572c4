"""Token attribution: how much each token of the text counts for one prediction, by gradients.

Only token embeddings are attributed; positional embeddings stay as they are. Parts that are off in the trace are off
here too. Positions after the prediction's are not computed and get 0.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..engine import TOKENS_AT_ONCE
from ..hooks import replace
from ..numerics.chunks import chunks
from ..trace import Trace
from .portions import Run, run_all

FEWEST_STEPS, MOST_STEPS = 32, 256
_POINTS_TOGETHER = 256  # positions in one portion
_ROWS_OF_HEAD = 1024  # rows of the output head whose products are summed in float32


class Integrated(NamedTuple):
    """Integrated gradients, with a check of their sum."""

    contributions: NDArray[np.float64]  # [pos], in nats
    difference: float  # log-probability with the tokens minus that without: what the contributions should sum to
    n_steps: int

    @property
    def error(self) -> float:
        """How far the sum is from the difference, as a share of the difference."""
        return abs(float(self.contributions.sum()) - self.difference) / max(abs(self.difference), 1e-9)


def input_gradients(
    trace: Trace, streams: NDArray[np.floating], position: int, token: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Log-probability in nats of `token` after `position`, and its gradient with respect to the input of block 0.

    `streams` is [variant, pos, emb_dim], such as `trace["resid_pre", 0][None]`. Returns [variant] and
    [variant, pos, emb_dim].
    """
    seen = 1 + range(streams.shape[1])[position]
    values, gradients = [], np.zeros(streams.shape, dtype=np.float32)
    for some in chunks(len(streams), TOKENS_AT_ONCE // seen):
        with trace.engine.session(gradients=True) as session, replace(session.model, trace.changes):
            x = entering = session.tensor(streams[some, :seen]).requires_grad_()
            for block in session.model.trf_blocks:
                x = block(x)
            normed = session.model.final_norm(x[:, -1])
            value, gradient = _log_probability(session.model.out_head, normed.detach(), token)
            (gradient,) = torch.autograd.grad(normed, entering, gradient)
        values.append(value.cpu().numpy())
        gradients[some, :seen] = gradient.cpu().numpy()
    return np.concatenate(values), gradients


def gradient_times_input(trace: Trace, position: int, token: int) -> NDArray[np.float64]:
    """Gradient of the log-probability of `token` after `position`, times the token embeddings: [pos], in nats.

    A first-order estimate of what would be lost without each token (Simonyan et al. 2013; Shrikumar et
    al. 2016). The estimates do not add up to anything; those of `integrated_gradients` do.
    """
    _, gradients = input_gradients(trace, trace["resid_pre", 0][None], position, token)
    return _along(gradients[0], trace["embed"])


def integrated_gradients(
    trace: Trace, position: int, token: int, *, tolerance: float = 0.005, run: Run = run_all
) -> Integrated:
    """Mean gradient on the path from no token embeddings to the text's, times these embeddings: [pos], in nats.

    The contributions sum to the log-probability of `token` after `position` minus its value with the
    positional embeddings alone (completeness; Sundararajan et al. 2017). The integral uses Gauss-Legendre
    quadrature; the number of steps is doubled, up to `MOST_STEPS`, until `Integrated.error` is at most
    `tolerance`.
    """
    with_tokens, without = run(log_probability_at, [(trace, position, token, share) for share in (1, 0)])
    n_steps = FEWEST_STEPS
    while True:
        together = _POINTS_TOGETHER // (1 + range(len(trace))[position])
        portions = [(trace, position, token, n_steps, some) for some in chunks(n_steps, together)]
        found = Integrated(np.sum(run(part_of_integral, portions), axis=0), with_tokens - without, n_steps)
        if found.error <= tolerance or n_steps >= MOST_STEPS:
            return found
        n_steps *= 2


def log_probability_at(trace: Trace, position: int, token: int, share: float) -> float:
    """Log-probability of `token` after `position` with `share` of the token embeddings, from 0 to 1."""
    stream = trace["resid_pre", 0] if share == 1 else trace["pos_embed"] + share * trace["embed"]
    value, _ = input_gradients(trace, stream[None], position, token)
    return float(value[0])


def part_of_integral(trace: Trace, position: int, token: int, n_steps: int, steps: slice) -> NDArray[np.float64]:
    """Contribution of some of the `n_steps` points on the path to `integrated_gradients`: [pos]."""
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)  # on -1 to 1; the weights sum to 2
    scale = (nodes[steps, None, None] + 1) / 2
    _, gradients = input_gradients(trace, trace["pos_embed"] + scale * trace["embed"], position, token)
    return _along(np.einsum("s,spd->pd", weights[steps] / 2, gradients), trace["embed"])


def _log_probability(head: nn.Linear, normed: Tensor, token: int) -> tuple[Tensor, Tensor]:
    """Log-probability of `token` in nats [row] in float64, and its gradient with respect to `normed` [row, emb_dim].

    The gradient is a sum over the whole vocabulary: summed in float32, it would lose three digits.
    """
    log_probabilities = head(normed).double().log_softmax(dim=-1)
    outer = -log_probabilities.exp()
    outer[:, token] += 1
    gradient = torch.zeros_like(normed, dtype=torch.float64)
    for rows in chunks(head.out_features, _ROWS_OF_HEAD):
        gradient += outer[:, rows].to(normed) @ head.weight[rows]
    return log_probabilities[:, token], gradient.to(normed)


def _along(gradients: NDArray[np.floating], embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum over the dimensions of gradient times embedding: [pos, emb_dim] twice -> [pos]."""
    return np.einsum("pd,pd->p", gradients, embeddings, dtype=np.float64)
