import numpy as np
import pytest

from gptviz.experiments import token_attribution
from gptviz.experiments.token_attribution import gradient_times_input, input_gradients, integrated_gradients

TEXT = "Once upon a time there was a little dog. The little dog"


@pytest.fixture(scope="module", params=["tiny", "story"])
def engine(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("text", [TEXT, "Hello", "a b c d e f"])
def test_integrated_gradients_sum_to_the_difference(engine, text):
    trace = engine.run(text)
    token = int(trace.logits_at(-1).argmax())
    found = integrated_gradients(trace, len(trace) - 1, token)
    assert found.contributions.shape == (len(trace),)
    assert found.contributions.sum() == pytest.approx(found.difference, rel=0.01)
    assert found.error <= 0.01
    ends, _ = input_gradients(trace, np.stack((trace["resid_pre", 0], trace["pos_embed"])), -1, token)
    assert found.difference == pytest.approx(float(ends[0] - ends[1]), abs=1e-5)


def test_later_tokens_do_not_count(story):
    trace = story.run(TEXT)
    found = integrated_gradients(trace, 5, token=262)
    assert not found.contributions[6:].any()
    assert found.contributions[:6].any()
    assert not gradient_times_input(trace, 5, token=262)[6:].any()


def test_steps_are_doubled_until_the_sum_is_right(story, monkeypatch):
    trace, told = story.run(TEXT), []
    rough = integrated_gradients(trace, 12, 262, tolerance=1.0)
    fine = integrated_gradients(trace, 12, 262, tolerance=1e-9, progress=lambda *done: told.append(done))
    assert (rough.n_steps, fine.n_steps) == (32, token_attribution.MOST_STEPS)
    assert told[-1] == (256, 256)


def test_gradient_times_input_is_the_slope_when_a_token_fades(tiny):
    trace = tiny.run("a b c d")
    found = gradient_times_input(trace, 3, token=5)
    for position in range(4):
        step = np.zeros_like(trace["embed"])
        step[position] = 2e-3 * trace["embed"][position]
        values, _ = input_gradients(trace, trace["resid_pre", 0] + np.stack((step, -step)), 3, 5)
        assert found[position] == pytest.approx(float(values[0] - values[1]) / 4e-3, rel=0.05, abs=2e-3)
