"""The logit lens (nostalgebraist 2020): what the model would predict if it stopped early.

The residual stream at every depth goes through the final norm and the output head. Without the
norm the readings are wrong: the head was trained on a normed stream.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..numerics.chunks import chunks
from ..numerics.predictions import Predictions, divergences, entropies, predictions
from ..numerics.ranking import ranks, top_ids
from ..tokens import strings_of
from ..trace import Trace

ROWS_AT_ONCE = 128  # of [row, vocab_size], 200 kB each


class StreamPoint(NamedTuple):
    """A point on the residual stream: `trace[name, layer]`, and its label."""

    name: str
    layer: int
    label: str


class LogitLens(NamedTuple):
    """Predictions from the stream at every point and position, and how they stand to the model's own, the final one."""

    points: tuple[StreamPoint, ...]
    ids: NDArray[np.int64]  # [point, pos, k], the most probable tokens, the most probable first
    probabilities: NDArray[np.float64]  # [point, pos, k], over the whole vocabulary
    entropies: NDArray[np.float64]  # [point, pos], in nats
    divergences: NDArray[np.float64]  # [point, pos], KL(final prediction || this one), in nats
    target_ranks: NDArray[np.int64]  # [point, pos], of a chosen token; 1 is the most probable
    target_probabilities: NDArray[np.float64]  # [point, pos]

    @property
    def labels(self) -> list[str]:
        """Label of each point."""
        return [point.label for point in self.points]

    @property
    def strings(self) -> NDArray[np.str_]:
        """The tokens as strings: [point, pos, k]."""
        return np.array(strings_of(self.ids.ravel())).reshape(self.ids.shape)


def stream_points(n_layers: int) -> tuple[StreamPoint, ...]:
    """Points from the embeddings to the last block, after each attention and each MLP: 2 n_layers + 1."""
    points = [StreamPoint("resid_pre", 0, "embeddings")]
    for layer in range(n_layers):
        points += [
            StreamPoint("resid_mid", layer, f"L{layer} attention"),
            StreamPoint("resid_post", layer, f"L{layer} MLP"),
        ]
    return tuple(points)


def logit_lens(
    trace: Trace,
    *,
    k: int = 5,
    positions: slice = slice(None),
    points: Sequence[StreamPoint] | None = None,
    target: int | None = None,
    temperatures: Sequence[float] | None = None,
    measured: bool = True,
) -> LogitLens:
    """What the stream predicts at every point and every position.

    Without `measured`, only the tokens and their probabilities are computed, and the other numbers are NaN, and ranks
    0: the comparison with the final prediction takes half as long again.

    The last point gives the model's own prediction. `target` is the token to find at every position;
    without it, each position's target is the final prediction's most probable token. `temperatures` has
    one number per point, which divides the logits (see `gptviz.experiments.lens_calibration`); it never
    changes which tokens are on top, or a rank. The final prediction is always taken at temperature 1.
    Each cell costs one pass through the output head: for long texts ask only for the `positions` and
    `points` shown. Raises `ValueError` unless there is one temperature per point.
    """
    points = tuple(points or stream_points(trace.config["n_layers"]))
    temperatures = _one_each(temperatures, points)
    places = np.arange(len(trace))[positions]
    parts = [
        _lens_at(trace, places[some], points, temperatures, k, target, measured)
        for some in chunks(len(places), ROWS_AT_ONCE // 2)  # of a final prediction, two rows are held
    ]
    return LogitLens(points, *(np.concatenate(field, axis=1) for field in zip(*parts, strict=True)))


def _lens_at(
    trace: Trace,
    places: NDArray[np.int64],
    points: Sequence[StreamPoint],
    temperatures: Sequence[float],
    k: int,
    target: int | None,
    measured: bool,
) -> list[NDArray[Any]]:
    """The fields of `LogitLens` after `points`, at a few positions: [point, pos, ...] each."""
    end = trace["resid_post", trace.config["n_layers"] - 1][places]
    finals = [predictions(logits) for logits in trace.unembed(end)] if measured else [None] * len(places)
    cells = []
    # In short texts several points share one pass through the head, which spends most time reading its weights.
    for some in chunks(len(points), ROWS_AT_ONCE // len(places)):
        stream = np.concatenate([trace[point.name, point.layer][places] for point in points[some]])
        settings = product(temperatures[some], finals)
        # One by one, so that a row stays in the CPU cache.
        for logits, (temperature, final) in zip(trace.unembed(stream), settings, strict=True):
            cells.append(_cell(logits, temperature, final, k, target))
    shape = len(points), len(places)
    return [np.array(field).reshape(*shape, *np.shape(field[0])) for field in zip(*cells, strict=True)]


def _cell(
    logits: NDArray[np.float32], temperature: float, final: Predictions | None, k: int, target: int | None
) -> tuple[Any, ...]:
    """The fields of `LogitLens` after `points`, for one point and position; `logits` is [vocab_size]."""
    ids = top_ids(logits, k)
    if final is None:
        return ids, _probabilities(logits / np.float32(temperature), ids), np.nan, np.nan, 0, np.nan
    own = predictions(logits, temperature)
    token = int(final.logs.argmax()) if target is None else target
    return (
        ids,
        own.probabilities[ids].astype(np.float64),
        entropies(own),
        divergences(final, own),
        ranks(logits, np.array(token)),
        float(own.probabilities[token]),
    )


def follow(
    trace: Trace, position: int, ids: Sequence[int] | None = None, temperatures: Sequence[float] | None = None
) -> pd.DataFrame:
    """Rank and probability of chosen tokens at one position, at every point of the stream.

    Without `ids`, follow the tokens that are the most probable at any point, those of the last points
    first. `temperatures` is as in `logit_lens`. One row per point and token. Columns: point (its number),
    label, layer, token, id, probability, rank (1 is the most probable).
    """
    points = stream_points(trace.config["n_layers"])
    divisors = np.array(_one_each(temperatures, points), dtype=np.float32)[:, None]
    stream = np.stack([trace[point.name, point.layer][position] for point in points])
    if ids is None:
        first = [trace.unembed(stream[rows]).argmax(axis=-1) for rows in chunks(len(stream), ROWS_AT_ONCE)]
        ids = tokens_on_top(np.concatenate(first))
    rows_of = []
    for rows in chunks(len(stream), ROWS_AT_ONCE):
        logits = trace.unembed(stream[rows])
        followed = np.tile(np.asarray(ids, dtype=np.int64), (len(logits), 1))  # [point, token]
        probabilities = np.take_along_axis(predictions(logits / divisors[rows]).probabilities, followed, axis=-1)
        rank = np.stack([ranks(logits, column) for column in followed.T], axis=-1)
        rows_of.append(np.stack([probabilities, rank.astype(np.float64)], axis=-1))
    followed_over_points = np.concatenate(rows_of)  # [point, token, probability and rank]
    n_tokens = len(ids)
    return pd.DataFrame(
        {
            "point": np.repeat(np.arange(len(points)), n_tokens),
            "label": np.repeat([point.label for point in points], n_tokens),
            "layer": np.repeat([point.layer for point in points], n_tokens),
            "token": strings_of(ids) * len(points),
            "id": np.tile(ids, len(points)),
            "probability": followed_over_points[..., 0].ravel(),
            "rank": followed_over_points[..., 1].ravel().astype(np.int64),
        }
    )


def tokens_on_top(ids: NDArray[np.integer]) -> list[int]:
    """The distinct ids of `ids` [point], those of the last points first."""
    return list(dict.fromkeys(ids[::-1].tolist()))


def _one_each(temperatures: Sequence[float] | None, points: Sequence[StreamPoint]) -> list[float]:
    """One temperature per point: 1 if none are given. They are plain floats, which leave float32 as it is."""
    if temperatures is None:
        return [1.0] * len(points)
    if len(temperatures) != len(points):
        raise ValueError(f"There are {len(temperatures)} temperatures for {len(points)} points: give one per point.")
    return [float(temperature) for temperature in temperatures]


def _probabilities(logits: NDArray[np.float32], ids: NDArray[np.integer]) -> NDArray[np.float64]:
    """Softmax of [vocab_size], but only at `ids` [k].

    The exponentials are float32 and their sum is float64: accurate to about 1e-6 of the probability, and faster than
    float64 throughout.
    """
    highest = logits.max()
    exponentials = logits - highest
    np.exp(exponentials, out=exponentials)
    shares: NDArray[np.float64] = np.exp(logits[ids].astype(np.float64) - highest) / exponentials.sum(dtype=np.float64)
    return shares
