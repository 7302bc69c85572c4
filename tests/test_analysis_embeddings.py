import numpy as np

from gptviz.analysis.embeddings import nearest_tokens
from gptviz.numerics.vectors import norms

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(20, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)


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
    embeddings = story.weights["tok_emb.weight"]
    (dog,) = story.tokenize(" dog").ids
    table = nearest_tokens(embeddings[dog], embeddings, norms(embeddings), k=10)
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = directions @ directions[dog]
    assert table["id"].tolist() == np.argsort(-cosines)[:10].tolist()
    np.testing.assert_allclose(table["cosine"], cosines[table["id"]], atol=1e-6)
    assert table["token"][0] == "␣dog"
