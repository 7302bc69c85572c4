import numpy as np
import pytest

from gptviz.numerics.clear_kinds import (
    BY_CONTENT,
    BY_POSITION,
    CLEAR,
    MIN_QUERIES,
    ClearKind,
    above_equal_weights,
    clear_kinds,
    own_targets,
    sentence,
)
from gptviz.numerics.head_kinds import head_scores, repeated_random_ids, targets_by_kind

KINDS = (*BY_CONTENT, *BY_POSITION)
REPEATED = repeated_random_ids(10)
STORY = (4, 9, 1, 7, 3, 8, 1, 6, 5, 2, 0, 6, 5, 11, 12, 13, 14, 15, 16, 17)  # 1, 6 and 5 occur twice


def keys_by_kind(ids, query):
    """The keys that each kind looks at, from the kinds' definitions: a set for each kind."""
    copies = {key for key in range(query) if ids[key] == ids[query]}
    return {
        "induction": {key + 1 for key in copies},
        "duplicate_token": copies,
        "previous_token": {query - 1} - {-1},
        "current_token": {query},
        "first_token": {0} if query else set(),
    }


def perfect(kind, ids, rest=0):
    """Return a pattern [1, query, key] that looks at the kind's targets, and at the key `rest` if there is none."""
    pattern = np.zeros((1, len(ids), len(ids)), dtype=np.float32)
    for query in range(len(ids)):
        keys = sorted(keys_by_kind(ids, query)[kind] or {min(rest, query)})
        pattern[0, query, keys] = 1 / len(keys)
    return pattern


def equal(n_tokens):
    """Return a pattern [1, query, key] with the same weight on every key that a query may look at."""
    return np.tri(n_tokens)[None] / np.arange(1, n_tokens + 1)[:, None]


def random_ids(seed):
    random = np.random.default_rng(seed)
    return tuple(random.integers(0, random.integers(1, 12), size=random.integers(1, 30)).tolist())


def kind_of(pattern, ids):
    (clear,) = clear_kinds(pattern, ids)
    return None if clear is None else clear.kind


@pytest.mark.parametrize("ids", [REPEATED, STORY])
@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_head_of_a_kind_has_that_kind_and_the_score_of_the_table(kind, ids):
    pattern = perfect(kind, ids)
    assert clear_kinds(pattern, ids) == [(kind, pytest.approx(1))]
    assert head_scores(pattern, ids)[kind][0] == pytest.approx(1)


def test_every_head_of_a_layer_is_decided_alone():
    heads = [perfect(kind, STORY) for kind in KINDS] + [equal(len(STORY))]
    found = clear_kinds(np.concatenate(heads), STORY)
    assert [clear and clear.kind for clear in found] == [*KINDS, None]


@pytest.mark.parametrize("seed", range(40))
def test_an_own_target_is_a_key_that_one_kind_alone_looks_at(seed):
    ids = random_ids(seed)
    own = own_targets(targets_by_kind(ids))
    for query in range(len(ids)):
        keys = keys_by_kind(ids, query)
        for kind in KINDS:
            others = set().union(*(keys[other] for other in KINDS if other != kind))
            expected = keys[kind] - others if query > 0 else set()
            assert set(np.flatnonzero(own[kind][query]).tolist()) == expected


@pytest.mark.parametrize("ids", [REPEATED, STORY])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_of_equal_weights_and_a_perfect_head_is_as_far_above_as_its_share(kind, ids):
    own = own_targets(targets_by_kind(ids))[kind]
    looking = own / np.maximum(own.sum(axis=-1, keepdims=True), 1)
    looking[~own.any(axis=-1)] = equal(len(ids))[0][~own.any(axis=-1)]
    for share in (0, 0.2, 1):
        mixture = (1 - share) * equal(len(ids)) + share * looking
        assert above_equal_weights(mixture, own) == pytest.approx(share, abs=1e-12)
    for share, expected in ((CLEAR - 0.01, None), (CLEAR + 0.01, kind)):
        assert kind_of((1 - share) * equal(len(ids)) + share * looking, ids) == expected


@pytest.mark.parametrize("seed", range(40))
def test_equal_weights_have_no_kind_on_any_text(seed):
    ids = random_ids(seed)
    assert clear_kinds(equal(len(ids)), ids) == [None]


# --- short texts, and keys of several kinds -------------------------------------------------------


@pytest.mark.parametrize("n_tokens", [1, 2, 3])
@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_up_to_three_tokens_shows_no_kind(n_tokens, repeats, kind):
    ids = (7,) * n_tokens if repeats else tuple(range(n_tokens))
    assert clear_kinds(perfect(kind, ids), ids) == [None]


def test_a_kind_needs_several_queries_that_no_other_kind_explains():
    assert MIN_QUERIES == 3
    assert [kind_of(perfect("current_token", range(n)), range(n)) for n in (3, 4)] == [None, "current_token"]
    for kind in ("previous_token", "first_token"):  # The query at 1 does not tell them apart.
        assert [kind_of(perfect(kind, range(n)), range(n)) for n in (4, 5)] == [None, kind]
    two_repeats = (0, 1, 2, 3, 4, 5, 1, 2)
    three_repeats = (*two_repeats, 3)
    for kind in BY_CONTENT:
        found = [kind_of(perfect(kind, ids, rest=2), ids) for ids in (two_repeats, three_repeats)]
        assert found == [None, kind]


@pytest.mark.parametrize("n_tokens", [4, 30])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_token_throughout_shows_no_kind(n_tokens, kind):
    ids = (7,) * n_tokens
    pattern = perfect(kind, ids)
    assert head_scores(pattern, ids)[kind][0] == pytest.approx(1)
    assert clear_kinds(pattern, ids) == [None]


def test_two_tokens_in_turn_do_not_tell_a_previous_token_head_from_an_induction_head():
    ids = (7, 8) * 10
    pattern = perfect("previous_token", ids)
    assert head_scores(pattern, ids)["previous_token"][0] == 1
    assert head_scores(pattern, ids)["induction"][0] == 1
    assert clear_kinds(pattern, ids) == [None]


def test_a_first_token_head_is_no_duplicate_token_head_where_the_first_token_is_what_repeats():
    ids = (1, 2, 1, 3, 1, 4, 1, 5, 1, 6)
    pattern = perfect("first_token", ids)
    assert head_scores(pattern, ids)["duplicate_token"][0] == 1
    assert clear_kinds(pattern, ids) == [("first_token", 1)]


@pytest.mark.parametrize("kind", BY_CONTENT)
def test_a_head_that_rests_on_the_first_token_is_what_it_does_on_a_repeated_one(kind):
    pattern = 0.6 * perfect(kind, STORY) + 0.4 * perfect("first_token", STORY)
    scores = head_scores(pattern, STORY)
    assert scores["first_token"][0] > scores[kind][0] == pytest.approx(0.6)
    assert clear_kinds(pattern, STORY) == [(kind, pytest.approx(0.6))]


@pytest.mark.parametrize("kinds", [BY_CONTENT, BY_POSITION[:2], BY_POSITION[1:], BY_POSITION[::2]])
def test_of_two_clear_kinds_of_a_sort_the_stronger_is_taken(kinds):
    first, second = (perfect(kind, REPEATED) for kind in kinds)
    assert kind_of(0.55 * first + 0.45 * second, REPEATED) == kinds[0]
    assert kind_of(0.45 * first + 0.55 * second, REPEATED) == kinds[1]


def test_weights_that_are_not_numbers_have_no_kind():
    broken = np.full((1, len(STORY), len(STORY)), np.nan, dtype=np.float32)
    assert clear_kinds(broken, STORY) == [None]


def test_every_kind_has_a_sentence():
    assert set(KINDS) == set(targets_by_kind(STORY))
    assert [sentence(ClearKind(kind, 0.664)) for kind in KINDS] == [
        "an induction head: for a repeated token, 0.66 of its weight goes to what followed an earlier copy",
        "a duplicate-token head: for a repeated token, 0.66 of its weight goes to earlier copies",
        "a previous-token head: 0.66 of its weight goes to the token just before",
        "a current-token head: 0.66 of its weight stays on the token itself",
        "a first-token head: 0.66 of its weight goes to the first token",
    ]
