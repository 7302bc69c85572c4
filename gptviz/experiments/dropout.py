"""Dropout made visible: how predictions and attention weights scatter over runs with other numbers dropped."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import DropoutRuns, Engine
from ..numerics.sampling import log_softmax
from ..tokens import Tokens

TOKENS_TOGETHER = 1024  # in one batch: more are not faster

PLACES = ("embedding", "attention", "shortcut")


class Dropout(NamedTuple):
    """Which numbers are dropped."""

    rate: float  # the share of them
    places: tuple[str, ...]  # of `PLACES`: after the embeddings, on attention weights, before the shortcuts
    seed: int


class Spread(NamedTuple):
    """What some runs gave, one row a run."""

    probabilities: NDArray[np.float64]  # [run, token]: of the tokens asked for, after the last position
    weights: NDArray[np.float32]  # [run, key]: what the last position's values were weighted with, after dropout


def spread(
    tokens: Tokens,
    engine: Engine,
    dropout: Dropout,
    n_runs: int,
    *,
    layer: int,
    head: int,
    ids: Collection[int],
    progress: Callable[[int, int], object] | None = None,
) -> Spread:
    """Run the text `n_runs` times: the probabilities of `ids` next, and the last token's weights in one head.

    `progress(runs done, runs)` is told as it goes on.
    """
    chosen = np.array(list(ids))
    parts = []
    together = max(1, TOKENS_TOGETHER // len(tokens))
    for start in range(0, n_runs, together):
        runs = range(start, min(start + together, n_runs))
        found = drop(tokens, engine, dropout, runs, layer=layer, head=head)
        parts.append(Spread(np.exp(log_softmax(found.logits)[:, chosen]), found.dropped[:, -1]))
        if progress:
            progress(runs.stop, n_runs)
    return Spread(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def drop(tokens: Tokens, engine: Engine, dropout: Dropout, runs: range, *, layer: int, head: int) -> DropoutRuns:
    """Some runs, whole: see `Engine.dropout_runs`."""
    return engine.dropout_runs(
        tokens, dropout.rate, runs, seed=dropout.seed, layer=layer, head=head, places=dropout.places
    )
