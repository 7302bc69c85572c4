import numpy as np
import pytest
import reference
import torch

from gptviz.analysis import logit_lens as lens_module
from gptviz.analysis.logit_lens import ROWS_AT_ONCE, follow, logit_lens, stream_points, tokens_on_top
from gptviz.numerics.sampling import softmax

TEXT = "Once upon a time there was a little girl"


@pytest.fixture(scope="module", params=["tiny", "story"])
def engine(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def trace(engine):
    return engine.run(TEXT)


def direct_logits(engine, stream):
    """Apply the model's own final norm and output head to the stream."""
    with torch.inference_mode():
        return engine._model.out_head(engine._model.final_norm(torch.tensor(np.array(stream)))).numpy()


def test_the_stream_is_read_at_its_start_and_after_every_part():
    assert [point.label for point in stream_points(2)] == [
        "embeddings",
        "L0 attention",
        "L0 MLP",
        "L1 attention",
        "L1 MLP",
    ]
    assert [(point.name, point.layer) for point in stream_points(1)] == [
        ("resid_pre", 0),
        ("resid_mid", 0),
        ("resid_post", 0),
    ]


def test_every_cell_is_a_direct_computation_on_the_model(engine, trace):
    found = logit_lens(trace, k=5)
    assert found.ids.shape == found.probabilities.shape == (2 * trace.config["n_layers"] + 1, len(trace), 5)
    for number, point in enumerate(found.points):
        expected = softmax(direct_logits(engine, trace[point.name, point.layer]))
        order = np.argsort(-expected, axis=-1)[:, :5]
        assert (found.ids[number] == order).all(), point
        np.testing.assert_allclose(
            found.probabilities[number], np.take_along_axis(expected, order, -1), rtol=1e-4, err_msg=str(point)
        )


def test_the_last_row_is_the_models_own_prediction(engine, trace):
    found = logit_lens(trace, k=5)
    for position in range(len(trace)):
        table = trace.top_k(position, 5)
        assert found.ids[-1, position].tolist() == table["id"].tolist()
        np.testing.assert_allclose(found.probabilities[-1, position], table["probability"], rtol=1e-4)


def test_a_part_of_the_grid_is_that_part_of_it(tiny):
    trace = tiny.run(tiny.tokenizer.tokens(range(32)))
    whole = logit_lens(trace, k=3)
    part = logit_lens(trace, k=3, positions=slice(4, 9), points=whole.points[2:4])
    assert part.points == whole.points[2:4]
    assert part.ids.tolist() == whole.ids[2:4, 4:9].tolist()
    np.testing.assert_allclose(part.probabilities, whole.probabilities[2:4, 4:9], rtol=1e-4)


def test_texts_longer_than_one_chunk_are_put_together_in_order(story):
    trace = story.run(TEXT * 16)
    assert len(trace) > ROWS_AT_ONCE
    found = logit_lens(trace, k=1, points=stream_points(6)[-2:])
    assert found.ids[-1, :, 0].tolist() == trace["logits"].argmax(axis=-1).tolist()


def test_one_token_is_enough(engine):
    trace = engine.run("a")
    found = logit_lens(trace, k=2)
    assert found.ids.shape == (2 * trace.config["n_layers"] + 1, 1, 2)
    assert found.ids[-1, 0].tolist() == trace.top_k(0, 2)["id"].tolist()


def test_chosen_tokens_are_followed_from_point_to_point(engine, trace):
    ids = [257, 0, 50256]
    table = follow(trace, 3, ids)
    assert len(table) == 3 * len(stream_points(trace.config["n_layers"]))
    for row in table.itertuples():
        point = stream_points(trace.config["n_layers"])[row.point]
        probabilities = softmax(direct_logits(engine, trace[point.name, point.layer][3][None]))[0]
        assert (row.label, row.layer) == (point.label, point.layer)
        assert row.probability == pytest.approx(probabilities[row.id], rel=1e-4)
        assert row.rank == 1 + (probabilities > probabilities[row.id]).sum()
    assert table["id"][:3].tolist() == ids
    assert table["token"][:3].tolist() == ["␣a", "!", "<|endoftext|>"]


def test_without_a_choice_the_tokens_on_top_anywhere_are_followed(engine, trace):
    table = follow(trace, -1)
    on_top = logit_lens(trace, k=1).ids[:, -1, 0]
    assert set(table["id"]) == set(on_top.tolist())
    assert table["id"][0] == on_top[-1]
    assert (table[table["rank"] == 1].groupby("point")["id"].first() == on_top).all()


# --- how a depth's prediction stands to the final one ------------------------------------------------


TEMPERATURES = (30.0, 4.0, 0.25, 2.0, 1.5, 3.0, 1.0)  # one per point of the tiny model
IDS = (5, 17, 300, 5, 17, 9, 300, 12)


@pytest.mark.parametrize("temperatures", [None, TEMPERATURES])
@pytest.mark.parametrize("target", [None, 42])
@pytest.mark.parametrize("rows_at_once", [4, 128])  # two positions at once, and all
def test_every_reading_follows_its_formula(tiny, monkeypatch, temperatures, target, rows_at_once):
    monkeypatch.setattr(lens_module, "ROWS_AT_ONCE", rows_at_once)
    found = logit_lens(tiny.run(tiny.tokenizer.tokens(IDS)), k=3, target=target, temperatures=temperatures)
    logits = reference.lens_logits(tiny, IDS)  # [point, pos, vocab_size]
    logs = reference.log_softmax(logits / np.array(temperatures or [1.0] * 7)[:, None, None])
    final = reference.log_softmax(logits[-1])
    entropies = -(np.exp(logs) * logs).sum(axis=-1)
    divergences = (np.exp(final) * (final - logs)).sum(axis=-1)
    assert entropies.std() > 0.1
    assert divergences[:-1].min() > 0.1
    np.testing.assert_allclose(found.entropies, entropies, atol=1e-4)
    np.testing.assert_allclose(found.divergences, divergences, rtol=1e-4, atol=1e-5)
    ids = np.full(len(IDS), target) if target is not None else final.argmax(axis=-1)
    own = np.take_along_axis(logs, np.broadcast_to(ids, logs.shape[:2])[..., None], axis=-1)
    np.testing.assert_allclose(found.target_probabilities, np.exp(own[..., 0]), rtol=1e-3)
    assert found.target_ranks.tolist() == (1 + (logs > own).sum(axis=-1)).tolist()
    expected = np.take_along_axis(logs, found.ids, axis=-1)
    np.testing.assert_allclose(found.probabilities, np.exp(expected), rtol=1e-3)


def test_the_last_point_is_the_final_prediction(engine, trace):
    found = logit_lens(trace)
    assert found.divergences[-1].max() < 1e-6
    assert (found.target_ranks[-1] == 1).all()
    np.testing.assert_array_equal(found.target_probabilities[-1], found.probabilities[-1, :, 0])


def test_a_temperature_changes_no_rank_and_no_order(tiny):
    trace = tiny.run(tiny.tokenizer.tokens(IDS))
    plain, calibrated = (logit_lens(trace, target=7, temperatures=some) for some in (None, TEMPERATURES))
    assert plain.ids.tolist() == calibrated.ids.tolist()
    assert plain.target_ranks.tolist() == calibrated.target_ranks.tolist()
    assert abs(plain.probabilities - calibrated.probabilities)[:-1].max() > 0.1
    np.testing.assert_array_equal(plain.probabilities[-1], calibrated.probabilities[-1])


def test_followed_tokens_have_the_grids_numbers_at_every_temperature(tiny):
    trace = tiny.run(tiny.tokenizer.tokens(IDS))
    table = follow(trace, 3, [7], TEMPERATURES)
    grid = logit_lens(trace, target=7, temperatures=TEMPERATURES)
    assert table["rank"].tolist() == grid.target_ranks[:, 3].tolist()
    np.testing.assert_allclose(table["probability"], grid.target_probabilities[:, 3], rtol=1e-5)


def test_there_is_one_temperature_per_point(tiny):
    trace = tiny.run("a")
    with pytest.raises(ValueError, match="2 temperatures for 7 points"):
        logit_lens(trace, temperatures=[1, 2])
    with pytest.raises(ValueError, match="2 temperatures for 7 points"):
        follow(trace, 0, temperatures=[1, 2])


def test_tokens_on_top_come_once_the_latest_first():
    assert tokens_on_top(np.array([7, 5, 7, 9, 5])) == [5, 9, 7]


def test_without_measures_the_tokens_and_their_probabilities_are_the_same(trace):
    for some in (None, [2.5] * len(stream_points(trace.config["n_layers"]))):
        whole, part = logit_lens(trace, temperatures=some), logit_lens(trace, temperatures=some, measured=False)
        np.testing.assert_array_equal(part.ids, whole.ids)
        np.testing.assert_allclose(part.probabilities, whole.probabilities, rtol=2e-5)
        assert np.isnan(part.entropies).all()
        assert np.isnan(part.divergences).all()
