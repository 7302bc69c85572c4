import numpy as np
import pytest

from gptviz.numerics.comparison import kl_divergence
from gptviz.numerics.predictions import divergences, entropies, predictions
from gptviz.numerics.sampling import log_softmax

LOGITS = np.random.default_rng(0).normal(scale=6, size=(3, 2, 500)).astype(np.float32)
OTHERS = np.random.default_rng(1).normal(scale=2, size=(3, 2, 500)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
def test_predictions_are_the_softmax_at_a_temperature(temperature):
    found = predictions(LOGITS, temperature)
    expected = log_softmax(LOGITS.astype(np.float64) / temperature)
    np.testing.assert_allclose(found.logs, expected, atol=2e-5, rtol=1e-6)
    np.testing.assert_allclose(
        found.probabilities, np.exp(expected), rtol=2e-5, atol=1e-40
    )  # below, float32 loses digits
    assert found.logs.dtype == found.probabilities.dtype == np.float32


def test_entropy_goes_from_0_to_that_of_a_uniform_guess():
    uniform, sure = np.zeros((1, 500), dtype=np.float32), np.eye(1, 500, dtype=np.float32) * 200
    assert entropies(predictions(uniform)) == pytest.approx(np.log(500), abs=1e-5)
    assert entropies(predictions(sure)) == pytest.approx(0, abs=1e-6)
    logs = log_softmax(LOGITS)
    np.testing.assert_allclose(entropies(predictions(LOGITS)), -(np.exp(logs) * logs).sum(axis=-1), rtol=1e-5)


def test_divergences_are_those_of_each_pair():
    found = divergences(predictions(LOGITS), predictions(OTHERS))
    expected = [[kl_divergence(*pair) for pair in zip(*rows, strict=True)] for rows in zip(LOGITS, OTHERS, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (divergences(predictions(LOGITS), predictions(LOGITS)) == 0).all()


def test_what_is_nearly_impossible_stays_finite():
    logits = np.array([[0.0, -2000.0], [-2000.0, 0.0]], dtype=np.float32)
    first, second = predictions(logits), predictions(logits[::-1])
    assert divergences(first, second) == pytest.approx(2000)
    assert (entropies(first) == 0).all()
