import numpy as np
import pytest
import torch

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


def test_tokens_on_top_come_once_the_latest_first():
    assert tokens_on_top(np.array([7, 5, 7, 9, 5])) == [5, 9, 7]
