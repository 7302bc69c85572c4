import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gptviz.numerics.sampling import draw, log_softmax, next_token_probabilities, softmax

FINITE = st.floats(-50, 50, width=32)
# Use few different values, so that ties are common.
LOGITS = st.one_of(
    arrays(np.float32, st.integers(1, 40), elements=FINITE),
    arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-1.0, 0.0, 2.0])),
)
TEMPERATURES = st.one_of(st.floats(0.05, 5), st.just(1.0))


@settings(deadline=None)
@given(LOGITS, TEMPERATURES, st.none() | st.integers(1, 50), st.none() | st.floats(0.01, 1))
def test_it_is_a_distribution(logits, temperature, top_k, top_p):
    probabilities = next_token_probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    assert probabilities.shape == logits.shape
    assert (probabilities >= 0).all()
    assert probabilities.sum() == pytest.approx(1, abs=1e-9)


@settings(deadline=None)
@given(LOGITS, TEMPERATURES)
def test_without_filters_it_is_the_softmax_of_the_divided_logits(logits, temperature):
    exponentials = np.exp(logits.astype(np.float64) / temperature - logits.max() / temperature)
    expected = exponentials / exponentials.sum()
    np.testing.assert_allclose(next_token_probabilities(logits, temperature=temperature), expected, atol=1e-12)


@settings(deadline=None)
@given(LOGITS, st.integers(1, 50))
def test_top_k_keeps_the_k_highest_and_the_lower_id_on_a_tie(logits, top_k):
    probabilities = next_token_probabilities(logits, top_k=top_k)
    ranked = sorted(range(len(logits)), key=lambda at: (-logits[at], at))
    assert set(np.flatnonzero(probabilities)) == set(ranked[:top_k])
    assert len(np.flatnonzero(probabilities)) == min(top_k, len(logits))


@settings(deadline=None)
@given(LOGITS, st.floats(0.01, 0.999))
def test_top_p_keeps_the_fewest_that_reach_p(logits, top_p):
    kept = np.flatnonzero(next_token_probabilities(logits, top_p=top_p))
    full = softmax(logits)
    ranked = sorted(range(len(logits)), key=lambda at: (-logits[at], at))
    assert set(kept) == set(ranked[: len(kept)])
    assert full[kept].sum() >= top_p - 1e-9
    assert full[ranked[: len(kept) - 1]].sum() < top_p + 1e-9


@settings(deadline=None)
@given(LOGITS, st.integers(1, 50), st.floats(0.01, 0.999))
def test_filters_leave_the_odds_among_those_they_keep(logits, top_k, top_p):
    full, filtered = softmax(logits), next_token_probabilities(logits, top_k=top_k, top_p=top_p)
    kept = filtered > 0
    np.testing.assert_allclose(filtered[kept], full[kept] / full[kept].sum(), rtol=1e-9)


def test_logits_whose_probabilities_round_to_a_tie_keep_their_order():
    logits = np.array([5.0, 0.0, 2.6e-16])
    assert softmax(logits)[1] == softmax(logits)[2]
    assert np.flatnonzero(next_token_probabilities(logits, top_k=2)).tolist() == [0, 2]


def test_top_p_looks_at_what_top_k_left():
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    assert next_token_probabilities(logits, top_p=0.7).round(6).tolist() == [0.571429, 0.428571, 0, 0]
    assert next_token_probabilities(logits, top_k=2, top_p=0.57).tolist() == [1, 0, 0, 0]
    assert np.count_nonzero(next_token_probabilities(logits, top_p=1.0)) == 4


def test_top_p_takes_one_more_only_where_p_is_not_reached():
    logits = np.log([0.5, 0.25, 0.25])
    assert np.count_nonzero(next_token_probabilities(logits, top_p=0.5)) == 1
    assert np.count_nonzero(next_token_probabilities(logits, top_p=0.5001)) == 2


@settings(deadline=None)
@given(LOGITS)
def test_temperature_0_is_the_first_highest(logits):
    expected = np.zeros(len(logits))
    expected[int(np.argmax(logits))] = 1
    assert next_token_probabilities(logits, temperature=0).tolist() == expected.tolist()


@settings(deadline=None)
@given(LOGITS, st.floats(5e-324, 1e-6), st.none() | st.floats(0.01, 1))
def test_a_tiny_temperature_is_no_nan(logits, temperature, top_p):
    probabilities = next_token_probabilities(logits, temperature=temperature, top_p=top_p)
    assert np.isfinite(probabilities).all()
    assert probabilities[np.argmax(logits)] == probabilities.max() > 0


def test_a_forbidden_token_stays_forbidden():
    logits = np.array([0.0, -np.inf, 0.0])
    assert next_token_probabilities(logits).tolist() == [0.5, 0, 0.5]
    assert softmax(logits).tolist() == [0.5, 0, 0.5]


def test_a_hot_temperature_flattens_and_a_cold_one_sharpens():
    logits = np.array([1.0, 2.0, 3.0])
    highest = [next_token_probabilities(logits, temperature=t).max() for t in (0, 0.5, 1, 2, 1e9)]
    assert highest == sorted(highest, reverse=True)
    assert highest[-1] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"temperature": -0.1}, r"temperature is -0\.1: make it 0 \(greedy\) or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0: make it 1 or more"),
        ({"top_k": -3}, "top_k is -3"),
        ({"top_p": 0.0}, r"top_p is 0\.0: make it above 0 and at most 1"),
        ({"top_p": 1.1}, r"top_p is 1\.1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"temperature": 0, "top_k": 0}, "top_k is 0"),
    ],
)
def test_numbers_out_of_range_say_what_to_change(switches, message):
    with pytest.raises(ValueError, match=message):
        next_token_probabilities(np.zeros(5), **switches)


@settings(deadline=None)
@given(arrays(np.float32, (3, 7), elements=FINITE))
def test_softmax_rows_sum_to_one_and_log_softmax_is_its_logarithm(logits):
    assert softmax(logits).sum(axis=-1) == pytest.approx([1, 1, 1])
    np.testing.assert_allclose(np.exp(log_softmax(logits)), softmax(logits), atol=1e-12)


def test_huge_logits_neither_overflow_nor_underflow():
    assert softmax(np.array([1e4, 0])).tolist() == [1, 0]
    assert log_softmax(np.array([1e4, 0])).tolist() == [0, -1e4]


def test_draws_follow_the_distribution_over_seeds_and_over_positions():
    probabilities = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    for draws in (
        [draw(probabilities, seed, position=3) for seed in range(3000)],
        [draw(probabilities, 3, position) for position in range(3000)],
        [draw(probabilities, None, position=3) for _ in range(3000)],
    ):
        shares = np.bincount(draws, minlength=5) / len(draws)
        assert shares[1] == 0
        assert (abs(shares - probabilities) <= 5 * np.sqrt(probabilities * (1 - probabilities) / len(draws))).all()


def test_a_draw_depends_on_seed_and_position_alone():
    probabilities = np.full(1000, 1 / 1000)
    assert draw(probabilities, 5, 7) == draw(probabilities, 5, 7)
    assert len({draw(probabilities, 5, position) for position in range(20)}) > 15
    assert len({draw(probabilities, seed, 7) for seed in range(20)}) > 15
