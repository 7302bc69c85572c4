import numpy as np

from gptviz.analysis.next_tokens import compare_next_tokens

FIRST, SECOND = np.log([0.5, 0.3, 0.1, 0.1]), np.log([0.1, 0.2, 0.6, 0.1]) + 3.0


def test_the_union_of_the_most_probable_tokens():
    table = compare_next_tokens(FIRST, SECOND, k=2)
    assert table["id"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(table["first"], [0.5, 0.3, 0.1])
    np.testing.assert_allclose(table["second"], [0.1, 0.2, 0.6])
    np.testing.assert_allclose(table["change"], np.log([0.1 / 0.5, 0.2 / 0.3, 0.6 / 0.1]))
