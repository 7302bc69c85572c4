"""Which kind a head clearly is on a text, if any, and how to say so.

A high score is not enough. On a short text equal weights score high, too, and a key can be a target of several
kinds: in "the the", the token just before is also the first token and a duplicate. So a kind is judged only by its
own targets, which no other kind looks at, only if several queries have one, and by how far the head is above
equal weights.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from .head_kinds import Pattern, Targets, score, targets_by_kind

# Among the hundred heads of a model, some look at the one or two targets of a short text by accident.
MIN_QUERIES = 3

# How far a head must be on the way from equal weights (0) to all weight on the targets (1). Trained heads are
# seldom pure, so half is too much to ask: on windows of 256 tokens the best previous-token head of story-gpt is at
# 0.38. Heads of an untrained model are near 0.
CLEAR = 1 / 3

# A head that looks for a repeated token has to look somewhere when there is none, and often rests on the first token.
# Its weight there says nothing about what it does when there is one, so kinds by content come first.
BY_CONTENT = ("induction", "duplicate_token")
BY_POSITION = ("previous_token", "current_token", "first_token")

_SENTENCES = {
    "previous_token": "a previous-token head: {:.2f} of its weight goes to the token just before",
    "current_token": "a current-token head: {:.2f} of its weight stays on the token itself",
    "first_token": "a first-token head: {:.2f} of its weight goes to the first token",
    "duplicate_token": "a duplicate-token head: for a repeated token, {:.2f} of its weight goes to earlier copies",
    "induction": "an induction head: for a repeated token, {:.2f} of its weight goes to what followed an earlier copy",
}


class ClearKind(NamedTuple):
    """What a head clearly does on a text: a kind under its name in `head_scores`, and its score there."""

    kind: str
    score: float  # weight on the kind's targets, mean over the queries that have one: 0 to 1


def clear_kinds(pattern: Pattern, ids: Sequence[int]) -> list[ClearKind | None]:
    """The clear kind of each head of a layer on a text with these token ids; None for a head without one.

    A kind is clear if the head is at least `CLEAR` above equal weights (see `above_equal_weights`) on the kind's
    own targets (see `own_targets`). If several are, those by content go before those by position, and then the one
    that is further above equal weights. With four tokens only current_token can be clear. With fewer, or with the
    same token throughout, nothing tells the kinds apart, and no head has one.
    """
    targets = targets_by_kind(ids)
    own = own_targets(targets)
    above = {kind: above_equal_weights(pattern, own[kind]) for kind in targets}
    scores = {kind: score(pattern, targets[kind]) for kind in targets}
    clear: list[ClearKind | None] = []
    for head in range(len(pattern)):
        kind = _clear_kind({kind: float(above[kind][head]) for kind in above})
        clear.append(None if kind is None else ClearKind(kind, float(scores[kind][head])))
    return clear


def own_targets(targets: Mapping[str, Targets]) -> dict[str, Targets]:
    """Each kind's targets that are targets of no other kind. The first query has none, because it has only one key.

    Weight on a key that several kinds look at is no evidence for any of them.
    """
    alone = np.sum(list(targets.values()), axis=0) == 1
    alone[0] = False
    return {kind: where & alone for kind, where in targets.items()}


def above_equal_weights(pattern: Pattern, targets: Targets) -> Float64[np.ndarray, " head"]:
    """How far each head is on the way from equal weights (0) to all weight on the targets (1).

    (score - chance) / (1 - chance), where chance is the score of equal weights: Cohen's kappa (1960) corrects
    agreement for chance in this way. Negative for a head that avoids the targets. NaN if fewer than `MIN_QUERIES`
    queries have one.
    """
    n_tokens = len(targets)
    if np.count_nonzero(targets.any(axis=-1)) < MIN_QUERIES:
        return np.full(len(pattern), np.nan)
    equal = np.tri(n_tokens) / np.arange(1, n_tokens + 1)[:, None]
    chance = score(equal[None], targets)
    return (score(pattern, targets) - chance) / (1 - chance)


def sentence(clear: ClearKind) -> str:
    """Say what the head is, from the article on and without a full stop: "a previous-token head: 0.93 of its ..."."""
    return _SENTENCES[clear.kind].format(clear.score)


def _clear_kind(above: Mapping[str, float]) -> str | None:
    for kinds in (BY_CONTENT, BY_POSITION):
        clear = [kind for kind in kinds if above[kind] >= CLEAR]  # NaN is not
        if clear:
            return max(clear, key=lambda kind: above[kind])
    return None
