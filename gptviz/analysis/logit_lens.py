"""The logit lens (nostalgebraist 2020): what the model would predict if it stopped early.

The residual stream at every depth goes through the final norm and the output head. Without the
norm the readings are wrong: the head was trained on a normed stream.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..numerics.chunks import chunks
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
    """Predictions from the stream at every point and position: the k most probable tokens, the most probable first."""

    points: tuple[StreamPoint, ...]
    ids: NDArray[np.int64]  # [point, pos, k]
    probabilities: NDArray[np.float64]  # [point, pos, k], over the whole vocabulary

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
    trace: Trace, *, k: int = 5, positions: slice = slice(None), points: Sequence[StreamPoint] | None = None
) -> LogitLens:
    """The k most probable tokens at every point of the stream and every position.

    The last point gives the model's own prediction. Each cell costs one pass through the output head:
    for long texts ask only for the `positions` and `points` shown.
    """
    points = tuple(points or stream_points(trace.config["n_layers"]))
    n_positions = len(range(len(trace))[positions])
    # In short texts several points share one pass through the head, which spends most time reading its weights.
    ids, probabilities = [], []
    for some in chunks(len(points), ROWS_AT_ONCE // max(1, n_positions)):
        stream = np.concatenate([trace[point.name, point.layer][positions] for point in points[some]])
        for rows in chunks(len(stream), ROWS_AT_ONCE):
            for logits in trace.unembed(stream[rows]):  # one by one, so that a row stays in the CPU cache
                ids.append(top_ids(logits, k))
                probabilities.append(_probabilities(logits, ids[-1]))
    shape = (len(points), n_positions, -1)
    return LogitLens(points, np.stack(ids).reshape(shape), np.stack(probabilities).reshape(shape))


def follow(trace: Trace, position: int, ids: Sequence[int] | None = None) -> pd.DataFrame:
    """Rank and probability of chosen tokens at one position, at every point of the stream.

    Without `ids`, follow the tokens that are the most probable at any point, those of the last points
    first. One row per point and token. Columns: point (its number), label, layer, token, id,
    probability, rank (1 is the most probable).
    """
    points = stream_points(trace.config["n_layers"])
    stream = np.stack([trace[point.name, point.layer][position] for point in points])
    if ids is None:
        first = [trace.unembed(stream[rows]).argmax(axis=-1) for rows in chunks(len(stream), ROWS_AT_ONCE)]
        ids = tokens_on_top(np.concatenate(first))
    rows_of = []
    for rows in chunks(len(stream), ROWS_AT_ONCE):
        logits = trace.unembed(stream[rows])
        followed = np.tile(np.asarray(ids, dtype=np.int64), (len(logits), 1))  # [point, token]
        rank = np.stack([ranks(logits, column) for column in followed.T], axis=-1)
        rows_of.append(np.stack([_probabilities(logits, followed), rank], axis=-1))
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


def _probabilities(logits: NDArray[np.float32], ids: NDArray[np.integer]) -> NDArray[np.float64]:
    """Softmax of [..., vocab_size], but only at `ids` [..., k].

    The exponentials are float32 and their sum is float64: accurate to about 1e-6 of the probability,
    and faster than float64 throughout.
    """
    highest = logits.max(axis=-1, keepdims=True)
    exponentials = logits - highest
    np.exp(exponentials, out=exponentials)
    denominator = exponentials.sum(axis=-1, keepdims=True, dtype=np.float64)
    return np.exp(np.take_along_axis(logits, ids, axis=-1).astype(np.float64) - highest) / denominator
