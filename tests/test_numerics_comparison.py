import numpy as np
import pytest

from gptviz.numerics.comparison import kl_divergence

FIRST, SECOND = np.log([0.5, 0.3, 0.1, 0.1]), np.log([0.1, 0.2, 0.6, 0.1]) + 3.0


def test_divergence_follows_its_formula():
    expected = 0.5 * np.log(5) + 0.3 * np.log(1.5) + 0.1 * np.log(1 / 6)
    assert kl_divergence(FIRST, SECOND) == pytest.approx(expected)
    assert kl_divergence(SECOND, FIRST) != pytest.approx(expected, rel=0.01)
    assert kl_divergence(FIRST, FIRST + 5.0) == pytest.approx(0, abs=1e-12)
    assert kl_divergence(FIRST.astype(np.float32), FIRST.astype(np.float32)) == 0


def test_divergence_of_what_is_nearly_impossible_is_finite():
    assert np.isfinite(kl_divergence(np.array([0.0, -2000.0]), np.array([-2000.0, 0.0])))
