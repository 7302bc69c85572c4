"""Dropout made visible: the spread of predictions and attention weights over runs with different numbers dropped."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import TOKENS_AT_ONCE, Engine
from ..hooks import Key, record, replace
from ..interventions import dropout as dropout_change
from ..numerics.chunks import chunks
from ..numerics.sampling import log_softmax
from ..tokens import Tokens
from .portions import Run, run_all

PLACES = ("embedding", "attention", "shortcut")


class Dropout(NamedTuple):
    """Which numbers are dropped."""

    rate: float  # the share of numbers that are dropped
    places: tuple[str, ...]  # of `PLACES`: after the embeddings, on attention weights, before the shortcuts
    seed: int


class DropoutRuns(NamedTuple):
    """Results of several runs with dropout, one row per run."""

    logits: NDArray[np.float32]  # [run, vocab_size]: after the last token
    pattern: NDArray[np.float32]  # [run, query, key]: one head's weights in that run, before dropout
    dropped: NDArray[np.float32]  # [run, query, key]: the same after dropout, which is what weights the values


class Spread(NamedTuple):
    """The numbers shown for many runs, one row per run."""

    probabilities: NDArray[np.float64]  # [run, token]: of the requested tokens, after the last position
    weights: NDArray[np.float32]  # [run, key]: one head's weights for the last query, after dropout


def dropout_runs(
    engine: Engine, tokens: Tokens, dropout: Dropout, runs: range, *, layer: int, head: int
) -> DropoutRuns:
    """Run the text as in training, each time with different numbers dropped, in the same places as the course.

    Run 7 of a seed is the same whichever other runs are requested. All runs go through the model as one batch,
    so request only a few. Raises the same errors as `Engine.run`.
    """
    engine.check(tokens)
    n_layers = engine.config["n_layers"]
    sites: list[Key] = [("drop_emb", None)] if "embedding" in dropout.places else []
    for place in ("attention", "shortcut"):
        sites += [(f"drop_{place}", at) for at in range(n_layers)] if place in dropout.places else []
    change = dropout_change(dropout.rate, [(dropout.seed, run) for run in runs])
    before, after = ("pattern", layer), ("drop_attention", layer)
    with (
        engine.session() as session,
        replace(session.model, dict.fromkeys(sites, change)),
        record(session.model, [before, after]) as recorded,
    ):
        stream = session.model.stream(session.ids(tokens.ids).expand(len(runs), -1))
        logits = session.model.out_head(session.model.final_norm(stream[:, -1]))
    of_head = (recorded[key][:, head].clone() for key in (before, after))  # a view would keep all heads in memory
    return DropoutRuns(session.array(logits), *map(session.array, of_head))


def spread(
    engine: Engine,
    tokens: Tokens,
    dropout: Dropout,
    n_runs: int,
    *,
    layer: int,
    head: int,
    ids: Sequence[int],
    run: Run = run_all,
) -> Spread:
    """Run the text `n_runs` times: next-token probabilities of `ids`, and the last query's weights in one head."""
    portions = [
        (engine, tokens, dropout, range(some.start, some.stop), layer, head, tuple(ids))
        for some in chunks(n_runs, TOKENS_AT_ONCE // len(tokens))
    ]
    return Spread(*(np.concatenate(arrays) for arrays in zip(*run(spread_of_runs, portions), strict=True)))


def spread_of_runs(
    engine: Engine, tokens: Tokens, dropout: Dropout, runs: range, layer: int, head: int, ids: tuple[int, ...]
) -> Spread:
    """`spread` for some of the runs, in one pass."""
    found = dropout_runs(engine, tokens, dropout, runs, layer=layer, head=head)
    return Spread(np.exp(log_softmax(found.logits)[:, list(ids)]), found.dropped[:, -1])
