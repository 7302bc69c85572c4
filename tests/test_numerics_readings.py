import numpy as np
import pytest
from test_numerics_head_kinds import looking_at

from gptviz.numerics import readings


def test_without_the_first_the_rest_sums_to_1_again():
    pattern = np.array([[[1, 0, 0], [0.8, 0.2, 0], [0.6, 0.1, 0.3]]])
    read = readings.without_first(pattern)
    assert np.isnan(read[0, 0]).all()
    np.testing.assert_allclose(read[0, 1:], [[0, 1, 0], [0, 0.25, 0.75]])
    assert pattern[0, 1, 0] == 0.8


def test_a_row_with_nothing_but_the_first_has_no_other_reading():
    assert np.isnan(readings.without_first(looking_at([0, 0, 1]))[0, :2]).all()


def test_value_weighted_patterns_are_lengths_of_what_is_moved(tiny):
    trace = tiny.run("the cat sat on the mat")
    out_proj = tiny.weights["trf_blocks.1.att.out_proj.weight"]
    weighted = readings.value_weighted(trace["pattern", 1], trace["v", 1], trace.weights.w_o(1))
    for head, query, key in [(0, 0, 0), (2, 5, 3), (3, 4, 4), (1, 2, 5)]:
        moved = out_proj[:, head * 4 : (head + 1) * 4] @ trace["v", 1][key, head]
        expected = trace["pattern", 1][head, query, key] * np.sqrt((moved**2).sum())
        assert weighted[head, query, key] == pytest.approx(expected, rel=1e-5)


def test_rollout_of_known_patterns():
    first = looking_at([0, 0, 1])  # The shortcut keeps half of the weight on the token itself.
    np.testing.assert_allclose(readings.rollout([first]), [[1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])
    np.testing.assert_allclose(readings.rollout([first, first])[2], [0.25, 0.5, 0.25])
    both = np.concatenate([first, looking_at([0, 1, 2])])  # Rollout uses the mean of the two heads.
    np.testing.assert_allclose(readings.rollout([both])[1], [0.25, 0.75, 0])


def test_rollout_multiplies_later_layers_from_the_left(tiny):
    trace = tiny.run("the cat sat on the mat")
    matrices = [(trace["pattern", layer].mean(axis=0) + np.eye(6)) / 2 for layer in range(3)]
    rolled = readings.rollout(trace["pattern", layer] for layer in range(3))
    np.testing.assert_allclose(rolled, matrices[2] @ matrices[1] @ matrices[0], atol=1e-6)
    np.testing.assert_allclose(rolled.sum(axis=-1), 1, atol=1e-6)


def test_rollout_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="one layer at least"):
        readings.rollout([])
