"""What is worth seeing in one run of the model: clear heads, the answer's depth, a surprise, the answer's writer."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..numerics.clear_kinds import BY_CONTENT, BY_POSITION, ClearKind, clear_kinds
from ..tokens import strings_of
from ..trace import Trace
from .logit_attribution import attribute_logit
from .logit_lens import follow


class ClearHead(NamedTuple):
    """A head that has a clear kind; `numerics.clear_kinds.sentence` puts the kind into words."""

    layer: int
    head: int
    clear: ClearKind


class AnswerDepth(NamedTuple):
    """The point of the stream from which on the model's first guess stays the most probable, to the end."""

    token: str
    id: int
    point: int  # its number in `logit_lens.stream_points`
    label: str


class Surprise(NamedTuple):
    """A token of the text, and how well the model foresaw it from the tokens before."""

    position: int  # of the token itself, not of the one that it was predicted at
    token: str
    surprisal_bits: float
    probability: float


class AnswerWriter(NamedTuple):
    """The head that adds most to the logit of the model's first guess at the end, both in logits."""

    layer: int
    head: int
    contribution: float
    token: str
    id: int
    logit: float  # the sum of all parts' contributions


class Attended(NamedTuple):
    """A key, and the weight that a query puts on it."""

    position: int
    token: str
    weight: float


def clear_kind(trace: Trace, layer: int, head: int) -> ClearKind | None:
    """The clear kind of one head on this text, or None."""
    return clear_kinds(trace["pattern", layer][head : head + 1], trace.tokens.ids)[0]


def strongest_heads(trace: Trace) -> list[ClearHead]:
    """For each kind that some head clearly is on this text, the head with the highest score; kinds by content first.

    It derives every layer's pattern, one at a time, as `heads.all_head_scores` does.
    """
    found = list(_clear_heads(trace))
    by_kind = ([head for head in found if head.clear.kind == kind] for kind in (*BY_CONTENT, *BY_POSITION))
    return [max(heads, key=lambda head: head.clear.score) for heads in by_kind if heads]


def most_attended(trace: Trace, layer: int, head: int, position: int) -> Attended:
    """The key that a head's query at `position` puts most weight on; of equal weights, the earliest."""
    weights = trace["pattern", layer][head, position]
    key = int(weights.argmax())
    return Attended(key, trace.tokens.strings[key], float(weights[key]))


def answer_depth(trace: Trace) -> AnswerDepth | None:
    """From where on the logit lens at the last position keeps the model's first guess on top.

    An earlier point may show the same token if another leads in between. None if the logits are not
    finite. It takes one row of the output head for each point of the stream.
    """
    guess = _first_guess(trace)
    if guess is None:
        return None
    table = follow(trace, -1, [guess])  # one row per point
    others_lead = np.flatnonzero(table["rank"].iloc[:-1] > 1)  # at the last point the guess leads by definition
    point = int(others_lead[-1]) + 1 if len(others_lead) else 0
    return AnswerDepth(strings_of([guess])[0], guess, point, table["label"].iloc[point])


def most_surprising(predictions: pd.DataFrame) -> Surprise | None:
    """The token of the text with the highest surprisal, from `prediction.prediction_table`; of equals, the first.

    None if nothing was predicted: the text has a single token, or the logits are not numbers.
    """
    bits = predictions["surprisal_bits"].to_numpy(dtype=np.float64)  # NaN where nothing follows
    if np.isnan(bits).all():
        return None
    row = int(np.nanargmax(bits))
    token, probability = predictions["next_token"].iloc[row], predictions["probability"].iloc[row]
    return Surprise(row + 1, str(token), float(bits[row]), float(probability))


def answer_writer(trace: Trace) -> AnswerWriter | None:
    """The head with the largest direct contribution to the logit of the model's first guess at the last position.

    See `logit_attribution.attribute_logit`, also for the errors. The contribution may be a small part of the logit,
    since embeddings and MLPs write it, too; and a head that raises all logits alike makes no token more probable.
    None if no head raises this logit, or if the logits are not finite.
    """
    guess = _first_guess(trace)
    if guess is None:
        return None
    table = attribute_logit(trace, -1, guess)
    by_head = table.loc[table["kind"] == "head", "contribution"].to_numpy()
    best = int(by_head.argmax())
    if by_head[best] <= 0:
        return None
    layer, head = divmod(best, trace.config["n_heads"])
    token, logit = strings_of([guess])[0], float(trace.logits_at(-1)[guess])
    return AnswerWriter(layer, head, float(by_head[best]), token, guess, logit)


def _clear_heads(trace: Trace) -> Iterator[ClearHead]:
    for layer in range(trace.config["n_layers"]):
        for head, clear in enumerate(clear_kinds(trace["pattern", layer], trace.tokens.ids)):
            if clear is not None:
                yield ClearHead(layer, head, clear)


def _first_guess(trace: Trace) -> int | None:
    """The id of the most probable token after the text; None if the logits are not finite."""
    logits = trace.logits_at(-1)
    return int(logits.argmax()) if np.isfinite(logits).all() else None
