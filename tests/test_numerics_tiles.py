import numpy as np
import pytest

from gptviz.numerics.tiles import MOST_PIXELS, pool, pool_factor


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_each_pixel_is_its_squares_largest_weight(factor):
    pattern = np.random.default_rng(0).random((2, 7, 7))
    pooled = pool(pattern, factor)
    for row in range(-(-7 // factor)):
        for column in range(-(-7 // factor)):
            square = pattern[:, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            np.testing.assert_array_equal(pooled[:, row, column], np.round(255 * square.max(axis=(1, 2))))


@pytest.mark.parametrize(("layers", "heads"), [(12, 12), (48, 25), (6, 6)])
@pytest.mark.parametrize("n_tokens", [1, 64, 100, 1024])
def test_picture_stays_within_its_size(layers, heads, n_tokens):
    factor = pool_factor(n_tokens, layers, heads)
    assert -(-n_tokens // factor) * max(layers, heads) <= MOST_PIXELS + max(layers, heads)
    assert factor == 1 or n_tokens * max(layers, heads) > MOST_PIXELS


def test_gpt2_small_at_64_tokens_is_not_pooled():
    assert pool_factor(64, 12, 12) == 1
