import numpy as np
import pytest
from sklearn.decomposition import PCA

from gptviz.numerics.vectors import cosine_similarity, norms, principal_components

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(20, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)


def test_norms():
    assert norms(np.array([[3.0, 4.0], [0.0, 0.0], [-1.0, 0.0]])).tolist() == [5, 0, 1]


def test_cosine_similarity_of_known_angles():
    similarity = cosine_similarity(np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    half = np.sqrt(0.5)
    expected = [[1, 0, -1, half, 0], [0, 1, 0, half, 0], [-1, 0, 1, -half, 0], [half, half, -half, 1, 0], [0] * 5]
    np.testing.assert_allclose(similarity, expected, atol=1e-12)


def test_cosine_similarity_never_leaves_its_range():
    similarity = cosine_similarity(np.repeat(VECTORS, 2, axis=0))
    assert np.abs(similarity).max() <= 1
    np.testing.assert_allclose(np.diagonal(similarity), 1)


@pytest.mark.parametrize("shape", [(20, 8), (3, 8), (8, 3)])
def test_principal_components_are_those_of_scikit_learn(shape):
    vectors = VECTORS[: shape[0], : shape[1]]
    n_components = min(shape)  # as many as scikit-learn returns
    reference = PCA(n_components, svd_solver="full").fit(vectors.astype(np.float64))
    found = principal_components(vectors, n_components)
    np.testing.assert_allclose(found.coordinates, reference.transform(vectors), atol=1e-5)
    np.testing.assert_allclose(found.explained, reference.explained_variance_ratio_, atol=1e-9)


def test_points_on_a_line_need_one_component():
    found = principal_components(7 + np.outer([-1.0, 0.0, 1.0], [3.0, 4.0]), 2)
    np.testing.assert_allclose(found.coordinates, [[-5, 0], [0, 0], [5, 0]], atol=1e-12)
    np.testing.assert_allclose(found.explained, [1, 0], atol=1e-12)


def test_one_vector_and_equal_vectors_have_no_directions():
    for vectors in (VECTORS[:1], np.ones((4, 8))):
        found = principal_components(vectors, 3)
        assert found.coordinates.tolist() == [[0, 0, 0]] * len(vectors)
        assert found.explained.tolist() == [0, 0, 0]
