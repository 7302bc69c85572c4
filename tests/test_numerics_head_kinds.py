import numpy as np
import pytest

from gptviz.numerics import head_kinds

# a b c a b a a: every kind of head has a key to look at
IDS = (7, 8, 9, 7, 8, 7, 7)


def looking_at(keys):
    """Return a pattern [1, query, key] with all of query q's weight on keys[q]."""
    return np.eye(len(keys), dtype=np.float32)[list(keys)][None]


def uniform(n_tokens):
    """Return a pattern [1, query, key] that spreads each query's weight evenly over the keys it may look at."""
    return (np.tri(n_tokens) / np.arange(1, n_tokens + 1)[:, None])[None]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("previous_token", [0, 0, 1, 2, 3, 4, 5]),
        ("current_token", [0, 1, 2, 3, 4, 5, 6]),
        ("first_token", [0, 0, 0, 0, 0, 0, 0]),
        ("duplicate_token", [0, 0, 0, 0, 1, 3, 5]),
        ("induction", [0, 0, 0, 1, 2, 4, 6]),
    ],
)
def test_a_perfect_head_of_a_kind_scores_1(kind, keys):
    assert head_kinds.head_scores(looking_at(keys), IDS)[kind][0] == pytest.approx(1)


def test_targets_on_a_text_with_repeats():
    assert np.argwhere(head_kinds.duplicate_token_targets(IDS)).tolist() == [
        [3, 0],
        [4, 1],
        [5, 0],
        [5, 3],
        [6, 0],
        [6, 3],
        [6, 5],
    ]
    # The keys that follow an earlier copy; the second of two equal neighbours follows a copy of itself.
    assert np.argwhere(head_kinds.induction_targets(IDS)).tolist() == [
        [3, 1],
        [4, 2],
        [5, 1],
        [5, 4],
        [6, 1],
        [6, 4],
        [6, 6],
    ]
    assert np.argwhere(head_kinds.previous_token_targets(3)).tolist() == [[1, 0], [2, 1]]
    assert np.argwhere(head_kinds.first_token_targets(3)).tolist() == [[1, 0], [2, 0]]


def test_a_score_is_the_mean_over_the_queries_with_a_target():
    pattern = np.array([[[1, 0, 0], [0.25, 0.75, 0], [0.2, 0.6, 0.2]], [[1, 0, 0], [1, 0, 0], [1, 0, 0]]])
    table = head_kinds.head_scores(pattern, (5, 6, 5))
    assert table["head"].tolist() == [0, 1]
    assert table["previous_token"].tolist() == pytest.approx([(0.25 + 0.6) / 2, 0.5])
    assert table["current_token"].tolist() == pytest.approx([(1 + 0.75 + 0.2) / 3, 1 / 3])
    assert table["first_token"].tolist() == pytest.approx([(0.25 + 0.2) / 2, 1])
    assert table["duplicate_token"].tolist() == pytest.approx([0.2, 1])
    assert table["induction"].tolist() == pytest.approx([0.6, 0])
    assert table["distance"].tolist() == pytest.approx([(0.25 + 0.6 + 0.4) / 3, 1])


def test_a_text_without_repeats_and_a_single_token_have_no_such_scores():
    table = head_kinds.head_scores(uniform(4), (1, 2, 3, 4))
    assert table[["duplicate_token", "induction"]].isna().all(axis=None)
    one = head_kinds.head_scores(uniform(1), (1,))
    assert one["current_token"][0] == 1
    assert one["distance"][0] == 0
    assert one[["previous_token", "first_token", "duplicate_token", "induction", "entropy"]].isna().all(axis=None)


def test_entropy_from_one_key_to_all_alike():
    assert head_kinds.entropies(uniform(4))[0] == pytest.approx(np.log([1, 2, 3, 4]))
    assert head_kinds.entropies(looking_at([0, 0, 1]))[0].tolist() == [0, 0, 0]
    assert head_kinds.entropy_share(uniform(5)) == pytest.approx([1])
    assert head_kinds.entropy_share(looking_at([0, 0, 1])) == pytest.approx([0])
    half = np.array([[[1, 0, 0, 0], [0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.5, 0, 0.5, 0]]])
    assert head_kinds.entropy_share(half) == pytest.approx([(1 + 0 + 0.5) / 3])


def test_random_ids_are_repeated_once_and_seeded():
    ids = head_kinds.repeated_random_ids(50, below=60, seed=3)
    assert ids[:50] == ids[50:]
    assert len(set(ids)) == 50
    assert set(ids) <= set(range(60))
    assert head_kinds.repeated_random_ids(50, below=60, seed=3) == ids
    assert head_kinds.repeated_random_ids(50, below=60, seed=4) != ids
    assert all(isinstance(id, int) for id in ids)
    with pytest.raises(ValueError, match="no 61 different ids below 60: ask for fewer"):
        head_kinds.repeated_random_ids(61, below=60)


def test_each_query_of_the_second_half_has_one_induction_target():
    targets = head_kinds.induction_targets(head_kinds.repeated_random_ids(20))
    assert np.argwhere(targets).tolist() == [[query, query - 19] for query in range(20, 40)]
