import numpy as np

from gptviz.analysis.stream import added_to_stream, similarity_of_tokens


def test_rows_are_the_sub_layers_in_order(tiny):
    trace = tiny.run("the cat sat on the mat")
    added = added_to_stream(trace)
    layers = range(tiny.config["n_layers"])
    parts = [trace[name, layer] for layer in layers for name in ("attn_out", "mlp_out")]
    before = [trace[name, layer] for layer in layers for name in ("resid_pre", "resid_mid")]
    np.testing.assert_allclose(added.norms, [np.linalg.norm(part, axis=1) for part in parts], rtol=1e-5)
    np.testing.assert_allclose(added.norms_of_stream[:-1], [np.linalg.norm(x, axis=1) for x in before], rtol=1e-5)
    np.testing.assert_allclose(added.norms_of_stream[-1], np.linalg.norm(trace["resid_post", 2], axis=1), rtol=1e-5)


def test_cosine_length_and_stream_obey_the_law_of_cosines(tiny):
    """|a + b|^2 = |a|^2 + |b|^2 + 2 |a| |b| cos, where b is what is added to the stream a between two depths."""
    stream, norms, cosines = added_to_stream(tiny.run("the cat sat on the mat"))
    np.testing.assert_allclose(
        stream[1:] ** 2, stream[:-1] ** 2 + norms**2 + 2 * stream[:-1] * norms * cosines, rtol=1e-4
    )


def test_similarity_of_tokens_is_the_mean_cosine_of_pairs(tiny):
    trace = tiny.run("a b c d")
    vectors = trace["resid_post", 1].astype(np.float64)
    cosines = [
        vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
        for i in range(4)
        for j in range(i)
    ]
    found = similarity_of_tokens(trace)
    assert found.shape == (4,)
    assert abs(found[2] - np.mean(cosines)) < 1e-5
    assert np.isnan(similarity_of_tokens(tiny.run("a"))).all()
