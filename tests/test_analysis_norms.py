import numpy as np

from gptviz.analysis.norms import norm_table


def test_mean_and_variance_at_every_stage_are_those_of_the_models_own_vectors(tiny):
    trace = tiny.run("the cat sat on the mat")
    before, after = trace["resid_pre", 1], trace["norm1_out", 1]
    table = norm_table(before, after)
    assert len(table) == len(trace)
    exact = before.astype(np.float64)
    np.testing.assert_allclose(table["mean before"], [row.sum() / len(row) for row in exact])
    squares = [((row - row.sum() / len(row)) ** 2).sum() / len(row) for row in exact]
    np.testing.assert_allclose(table["variance before"], squares)
    norm = trace.weights.norm1(1)
    gained = after.astype(np.float64)
    np.testing.assert_allclose(table["mean after gain and bias"], gained.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(table["variance after gain and bias"], gained.var(axis=1))
    normalised = (gained - norm.bias) / norm.gain  # undoes what the model did last
    np.testing.assert_allclose(table["mean normalised"], normalised.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(table["variance normalised"], normalised.var(axis=1), rtol=1e-5)


def test_a_constant_vector_has_no_variance_at_any_stage():
    table = norm_table(np.full((1, 4), 3.0), np.zeros((1, 4)))
    assert table.iloc[0].tolist() == [3, 0, 0, 0, 0, 0]
