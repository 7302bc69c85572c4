import numpy as np
import pytest
import reference
from tiny import tiny_engine

from gptviz.analysis.logit_lens import logit_lens, stream_points
from gptviz.experiments import lens_calibration
from gptviz.experiments.lens_calibration import (
    HOTTEST,
    calibrate_lens,
    fitted_temperature,
    held_out_stories,
    mean_divergence,
)
from gptviz.numerics.predictions import predictions

FIT = ((5, 17, 300, 5, 17, 9, 300, 12), (262, 11, 40, 400))
CHECK = ((7, 7, 600, 12), (500, 3, 90, 1, 5))
LAST = 6  # the tiny model's last point
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def small():
    """The tiny model with few tokens, so that float64 is quick."""
    return tiny_engine(vocab_size=700)


def traces(engine, texts):
    return [engine.run(engine.tokenizer.tokens(ids)) for ids in texts]


def table_of(engine, **how):
    return calibrate_lens(traces(engine, FIT), traces(engine, CHECK), **how)


def lens_logits(engine, texts):
    """Return the lens' logits at every point and every position of all texts, by the reference."""
    return np.concatenate([reference.lens_logits(engine, ids) for ids in texts], axis=1)


def mean_kl(logits, point, temperature):
    """Return the mean divergence of a point's prediction from the final one, in float64."""
    final, own = reference.log_softmax(logits[LAST]), reference.log_softmax(logits[point] / temperature)
    return (np.exp(final) * (final - own)).sum(axis=-1).mean()


def test_no_temperature_of_a_grid_is_better_than_the_fitted_one(small):
    table, logits = table_of(small), lens_logits(small, FIT)
    grid = np.geomspace(1 / HOTTEST, HOTTEST, 150)
    assert table["temperature"].between(1 / 100, 100).all()
    for point, temperature in enumerate(table["temperature"]):
        own = mean_kl(logits, point, temperature)
        assert own <= min(mean_kl(logits, point, other) for other in grid) + 1e-7
        for near in (0.999, 1.001):
            assert own < mean_kl(logits, point, temperature * near)


def test_the_figures_are_those_of_the_text_that_was_not_fitted(small):
    table, logits = table_of(small), lens_logits(small, CHECK)
    assert table["label"].tolist() == [point.label for point in stream_points(3)]
    for point, row in enumerate(table.itertuples()):
        assert row.kl_before == pytest.approx(mean_kl(logits, point, 1), rel=1e-4, abs=1e-6)
        assert row.kl_after == pytest.approx(mean_kl(logits, point, row.temperature), rel=1e-4, abs=1e-6)
    assert (table["kl_after"][:LAST] < table["kl_before"][:LAST]).all()


def test_the_lens_at_these_temperatures_has_the_figures_of_the_table(small):
    table = table_of(small)
    for temperatures, column in ((None, "kl_before"), (table["temperature"].tolist(), "kl_after")):
        found = [logit_lens(trace, temperatures=temperatures).divergences for trace in traces(small, CHECK)]
        np.testing.assert_allclose(np.concatenate(found, axis=1).mean(axis=1), table[column], rtol=1e-4, atol=1e-6)


def test_the_last_point_is_exact_and_so_its_temperature_is_1(small, story):
    for engine in (small, story):
        last = table_of(engine).iloc[-1]
        assert last["temperature"] == pytest.approx(1, abs=1e-5)
        assert last["kl_before"] == 0
        assert last["kl_after"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.02, 0.4, 1.0, 3.3, 250.0])
def test_a_temperature_that_explains_everything_is_found(temperature):
    logits = RANDOM.normal(scale=3 * temperature, size=(5, 2000)).astype(np.float32)
    final = predictions(logits, temperature)
    assert fitted_temperature(final, logits) == pytest.approx(temperature, rel=1e-4)
    assert mean_divergence(final, logits, temperature) == 0


def test_without_a_best_temperature_the_nearest_allowed_one_is_taken():
    logits = RANDOM.normal(scale=3, size=(5, 2000)).astype(np.float32)
    assert fitted_temperature(predictions(-logits), logits) == pytest.approx(HOTTEST, rel=1e-5)
    certain = predictions(logits, 1e-6)
    coldest = fitted_temperature(certain, logits)
    assert 1 / HOTTEST <= coldest < 1 / 100
    assert mean_divergence(certain, logits, coldest) == pytest.approx(0, abs=1e-6)
    assert fitted_temperature(predictions(logits), np.zeros_like(logits)) == 1, "all temperatures are the same"


@pytest.mark.parametrize("together", [1, 3, 100])
def test_portions_are_put_together_in_order(small, monkeypatch, together):
    expected = table_of(small)
    monkeypatch.setattr(lens_calibration, "_POINTS_TOGETHER", together)
    asked = []

    def run(function, portions):
        asked.extend(portions)
        return [function(*portion) for portion in portions]

    found = table_of(small, run=run)
    assert len(asked) == -(-7 // together)
    assert found["label"].tolist() == expected["label"].tolist()
    np.testing.assert_allclose(found["temperature"], expected["temperature"], rtol=1e-4)


def test_of_long_texts_a_few_positions_are_used_at_even_distances(small, monkeypatch):
    monkeypatch.setattr(lens_calibration, "MOST_POSITIONS", 4)
    logits = lens_logits(small, CHECK)[:, [0, 3, 5, 8]]
    for point, row in enumerate(table_of(small).itertuples()):
        assert row.kl_before == pytest.approx(mean_kl(logits, point, 1), rel=1e-4, abs=1e-6)


def test_the_bundled_stories_are_short_and_the_two_parts_differ():
    fit, check = held_out_stories(256)
    assert len(fit) == len(check) == 2
    assert 150 < sum(map(len, (*fit, *check))) < 250
    assert len({story.text for story in (*fit, *check)}) == 4
    assert "<|endoftext|>" not in "".join(story.text for story in (*fit, *check))
    for whole, cut in zip((*fit, *check), sum(held_out_stories(32), ()), strict=True):
        assert cut.ids == whole.ids[:32]
