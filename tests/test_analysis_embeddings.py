import numpy as np
import pytest
from sklearn.decomposition import PCA

from gptviz.analysis.embeddings import cosine_similarity, nearest_tokens, norms, principal_components

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
    n_components = min(shape)  # as many as scikit-learn gives
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


def test_nearest_tokens_are_ordered_by_cosine_not_by_product():
    embeddings = np.array([[0.1, 0.0], [5.0, 5.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    table = nearest_tokens(np.array([2.0, 0.0], np.float32), embeddings, norms(embeddings), k=4)
    assert table["id"].tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(table["cosine"], [1, np.sqrt(0.5), 0, 0], atol=1e-6)
    assert table["token"].tolist() == ["!", '"', "#", "%"]


def test_nearest_tokens_can_leave_some_out():
    table = nearest_tokens(VECTORS[3], VECTORS, norms(VECTORS), k=30, without=[3, 5])
    assert sorted(table["id"]) == [number for number in range(20) if number not in (3, 5)]
    assert table["cosine"].is_monotonic_decreasing
    assert nearest_tokens(VECTORS[3], VECTORS, norms(VECTORS), k=1)["id"].tolist() == [3]


def test_nearest_tokens_of_a_real_vocabulary_are_those_of_a_full_sort(story):
    embeddings = story.weight("tok_emb.weight")
    (dog,) = story.tokenize(" dog").ids
    table = nearest_tokens(embeddings[dog], embeddings, norms(embeddings), k=10)
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = directions @ directions[dog]
    assert table["id"].tolist() == np.argsort(-cosines)[:10].tolist()
    np.testing.assert_allclose(table["cosine"], cosines[table["id"]], atol=1e-6)
    assert table["token"][0] == "␣dog"
