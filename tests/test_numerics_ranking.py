import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import TypeCheckError

from gptviz.numerics.ranking import ranks, top_ids

# Use few different values, so that ties are common.
LOGITS = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.sampled_from([-1.0, 0.0, 2.0]))


@settings(deadline=None)
@given(LOGITS, st.integers(1, 12))
def test_the_top_ids_are_those_of_a_stable_sort(logits, k):
    before = logits.copy()
    assert top_ids(logits, k).tolist() == np.argsort(-logits, axis=-1, kind="stable")[:, :k].tolist()
    assert np.array_equal(logits, before)


@settings(deadline=None)
@given(LOGITS)
def test_ranks_are_the_places_in_that_order(logits):
    order = np.argsort(-logits, axis=-1, kind="stable")
    for place in range(logits.shape[-1]):
        assert (ranks(logits, order[:, place]) == place + 1).all()


@pytest.mark.parametrize("k", [1, 200, 201, 300, 400])
def test_many_ids_come_in_the_same_order_as_few(k):
    logits = np.random.default_rng(0).integers(0, 50, size=(2, 300)).astype(np.float32)
    assert top_ids(logits, k).tolist() == np.argsort(-logits, axis=-1, kind="stable")[:, :k].tolist()


def test_top_ids_of_one_row():
    assert top_ids(np.array([0.5, 3.0, -1.0, 3.0]), 3).tolist() == [1, 3, 0]
    assert ranks(np.array([0.5, 3.0, -1.0, 3.0]), np.array(3)) == 2


@settings(deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.sampled_from([-np.inf, 0.0, 2.0])),
    st.integers(1, 12),
)
def test_minus_infinity_comes_last_and_once(logits, k):
    assert top_ids(logits, k).tolist() == np.argsort(-logits, axis=-1, kind="stable")[:, :k].tolist()
    assert top_ids(logits[0], k).tolist() == np.argsort(-logits[0], kind="stable")[:k].tolist()


def test_what_is_no_number_comes_first_and_once():
    logits = np.array([0.5, np.nan, -np.inf, 3.0, np.nan, np.inf], dtype=np.float32)
    assert top_ids(logits, 6).tolist() == [1, 4, 5, 3, 0, 2]
    assert top_ids(logits, 3).tolist() == [1, 4, 5]


def test_shapes_are_checked_in_tests():
    """The hook in conftest.py works: asking for the ranks of more ids than there are rows raises an error."""
    with pytest.raises(TypeCheckError, match="ids"):
        ranks(np.zeros((2, 5), np.float32), np.array([1, 2, 3]))
