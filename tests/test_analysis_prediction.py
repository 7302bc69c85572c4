import numpy as np
import pytest

from gptviz.analysis.prediction import prediction_table


def test_each_row_is_read_off_the_logits(tiny):
    trace = tiny.run("the cat sat on the mat")
    table = prediction_table(trace)
    logits = trace["logits"].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    following = np.array(trace.tokens.ids[1:])
    actual = probabilities[np.arange(len(following)), following]
    np.testing.assert_allclose(table["probability"][:-1], actual, rtol=1e-9)
    np.testing.assert_allclose(table["surprisal_bits"][:-1], -np.log2(actual), rtol=1e-9)
    np.testing.assert_allclose(table["surprisal_nats"][:-1], -np.log(actual), rtol=1e-9)
    np.testing.assert_allclose(table["top_probability"], probabilities.max(axis=1), rtol=1e-9)
    np.testing.assert_allclose(table["entropy_bits"], -(probabilities * np.log2(probabilities)).sum(axis=1), rtol=1e-9)
    ranks = 1 + (probabilities[:-1] > actual[:, None]).sum(axis=1)
    assert table["rank"][:-1].tolist() == ranks.tolist()
    assert table["next_token"][:-1].tolist() == list(trace.tokens.strings[1:])


def test_last_position_has_nothing_to_be_held_against(tiny):
    last = prediction_table(tiny.run("the cat")).iloc[-1]
    assert last[["next_token", "probability", "surprisal_nats", "surprisal_bits", "rank"]].isna().all()
    assert last["top_probability"] > 0


@pytest.mark.parametrize("n_tokens", [1, 31, 32])
def test_any_length_gives_a_row_per_position(tiny, n_tokens):
    trace = tiny.run(tiny.tokenizer.tokens(range(n_tokens)))
    assert prediction_table(trace)["position"].tolist() == list(range(n_tokens))
