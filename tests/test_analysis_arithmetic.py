import numpy as np
import pytest
import reference
from tiny import tiny_engine

from gptviz import ACTIVATIONS
from gptviz.analysis.arithmetic import STEPS, check, explain, recompute
from gptviz.numerics.operations import layer_norm

TEXT = "Once upon a time there was a little girl, and the girl"
BLOCK_STEPS = [key for key, step in STEPS.items() if step.in_block]


@pytest.fixture(scope="module", params=["tiny", "no qkv bias", "story"])
def engine(request):
    if request.param == "no qkv bias":
        return tiny_engine(seed=1, tied_head=True, qkv_bias=False)
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def trace(engine):
    return engine.run(TEXT)


def layers_of(step, trace):
    return range(trace.config["n_layers"]) if step.in_block else [None]


def actual(trace, step, layer):
    return trace[step.name] if layer is None else trace[step.name, layer]


def corners(array):
    """Return the indices of the first cell, the last, and one in the middle."""
    return [(0,) * array.ndim, tuple(size - 1 for size in array.shape), tuple(size // 2 for size in array.shape)]


def test_the_steps_are_a_block_in_order_then_the_norm_and_the_logits():
    made = {"embed", "pos_embed", "resid_pre"}
    for step in STEPS.values():
        assert set(step.reads) <= made, step.key
        made.add(step.name)
    assert made == set(ACTIVATIONS)
    assert list(STEPS)[-2:] == ["final_norm", "logits"]
    assert list(STEPS)[:-2] == BLOCK_STEPS


@pytest.mark.parametrize("key", STEPS)
def test_the_model_is_right_in_every_cell(engine, trace, key):
    step = STEPS[key]
    for layer in layers_of(step, trace):
        found = check(trace, step, layer)
        values = actual(trace, step, layer)
        assert found.passed, (layer, found)
        assert found.n_cells == values.size
        recomputed = recompute(trace, step, layer)
        assert recomputed.dtype == np.float64
        assert recomputed.shape == values.shape
        assert found.largest_difference == pytest.approx(np.abs(recomputed - values).max(), rel=1e-6)
        if key != "logits":  # The logits' rounding depends on how many rows are computed together.
            worst = explain(trace, step, found.at, layer)
            assert found.share == pytest.approx(worst.difference / worst.tolerance, rel=1e-5)


@pytest.mark.parametrize("key", STEPS)
def test_the_arithmetic_of_a_cell_is_that_of_the_whole_step(engine, trace, key):
    step = STEPS[key]
    layer = 2 if step.in_block else None
    values, recomputed = actual(trace, step, layer), recompute(trace, step, layer)
    for index in corners(values):
        found = explain(trace, step, index, layer)
        assert found.recomputed == pytest.approx(recomputed[index], rel=1e-12, abs=1e-14), index
        shown = trace.logits_at(index[0])[index[1]] if key == "logits" else values[index]
        assert found.model_value == shown, index
        assert found.difference == abs(found.recomputed - found.model_value)
        assert found.passed, index
        assert found.tolerance <= 1e-4 * max(1, np.abs(values).max()), index


def corrupted(engine, name, layer, index, change):
    """Return a trace in which one captured value is replaced by `change(value)`."""
    trace = engine.run(TEXT, keep=ACTIVATIONS)
    key = (name, layer)
    if name in ("resid_pre", "resid_post"):
        stream = list(trace._stream)
        number = trace.config["n_layers"] if layer is None else layer + (name == "resid_post")
        stream[number] = change_cell(stream[number], index, change)
        trace._stream = tuple(stream)
    else:
        trace._kept[key] = change_cell(trace._kept[key], index, change)
    return trace


def change_cell(array, index, change):
    array = array.copy()
    array[index] = change(array[index])
    return array


@pytest.mark.parametrize("key", STEPS)
@pytest.mark.parametrize("change", [lambda x: x + 0.01, lambda x: x * 0.99 - 1e-3, lambda x: np.float32(np.nan)])
def test_one_wrong_cell_fails_the_check_and_is_named(tiny, key, change):
    step = STEPS[key]
    layer = 1 if step.in_block else None
    shape = actual(tiny.run(TEXT), step, layer).shape
    index = tuple(size // 2 for size in shape)
    trace = corrupted(tiny, step.name, layer, index, change)
    found = check(trace, step, layer)
    assert not found.passed
    assert found.at == index
    assert not explain(trace, step, index, layer).passed
    beside = (index[0] - 1, *index[1:])
    assert explain(trace, step, beside, layer).passed


@pytest.mark.parametrize("key", BLOCK_STEPS)
def test_a_wrong_operand_fails_the_step_that_reads_it(tiny, key):
    step = STEPS[key]
    name = step.reads[0]
    shape = tiny.run(TEXT)[name, 1].shape
    index = (0, 5, 2) if name in ("attn_scores", "pattern") else tuple(size // 2 for size in shape)
    trace = corrupted(tiny, name, 1, index, lambda x: x + np.float32(0.1))
    assert not check(trace, step, 1).passed


def test_an_error_in_a_small_cell_shows_beside_a_huge_one(tiny):
    """GPT-2's residual stream has a few dimensions in the thousands; they must not hide small errors from the check."""
    trace = corrupted(tiny, "mlp_out", 1, (3, 0), lambda x: np.float32(3000))
    trace._stream = (*trace._stream[:2], trace["resid_mid", 1] + trace["mlp_out", 1], trace._stream[3])
    assert check(trace, STEPS["shortcut2"], 1).passed
    stream = trace._stream[2].copy()
    stream[3, 7] += 1e-3
    trace._stream = (*trace._stream[:2], stream, trace._stream[3])
    found = check(trace, STEPS["shortcut2"], 1)
    assert not found.passed
    assert found.at == (3, 7)
    assert found.largest_difference == pytest.approx(1e-3, rel=1e-2)


def test_rows_are_those_of_the_whole(tiny):
    trace = tiny.run(TEXT)
    for key in ("query", "scores", "pattern", "weighted_values", "linear1"):
        whole = recompute(trace, STEPS[key], 0)
        rows = recompute(trace, STEPS[key], 0, slice(1, 3))
        np.testing.assert_allclose(rows, whole[1:3], rtol=1e-12, atol=1e-14)
        assert check(trace, STEPS[key], 0, slice(1, 3)).n_cells == rows.size
    trace = corrupted(tiny, "pre", 0, (4, 5), lambda x: x + 1)
    assert check(trace, STEPS["linear1"], 0, slice(0, 4)).passed
    assert check(trace, STEPS["linear1"], 0, slice(3, 6)).at == (4, 5)


def test_a_text_longer_than_one_chunk_is_checked_to_its_end(story):
    trace = story.run(TEXT * 4, keep=["logits"])
    assert len(trace) > 32
    logits = trace._kept["logits", None].copy()
    logits[-1, -1] += 1
    trace._kept["logits", None] = logits
    found = check(trace, STEPS["logits"])
    assert found.at == (len(trace) - 1, 50256)
    assert found.n_cells == logits.size


def test_one_token_is_enough(engine):
    trace = engine.run("a")
    for step in STEPS.values():
        layer = 0 if step.in_block else None
        assert check(trace, step, layer).passed
        assert explain(trace, step, (0,) * actual(trace, step, layer).ndim, layer).passed


def test_a_score_is_explained_by_its_products(story):
    trace = story.run(TEXT)
    found = explain(trace, STEPS["scores"], (4, 7, 2), 3)
    assert found.operands["q"].tolist() == trace["q", 3][7, 4].tolist()
    assert found.operands["k"].tolist() == trace["k", 3][2, 4].tolist()
    assert found.intermediates["products"].shape == (32,)
    assert found.intermediates["sum"] == pytest.approx(found.intermediates["products"].sum())
    assert found.intermediates["sqrt(head_dim)"] == pytest.approx(np.sqrt(32))
    assert found.recomputed == pytest.approx(found.intermediates["sum"] / np.sqrt(32))


def test_a_weight_is_explained_by_its_exponentials(tiny):
    trace = tiny.run(TEXT)
    found = explain(trace, STEPS["pattern"], (1, 4, 2), 0)
    scores = trace["attn_scores", 0][1, 4, :5]
    assert found.operands["scores"].tolist() == scores.tolist()
    np.testing.assert_allclose(found.intermediates["exponentials"], np.exp(scores - scores.max()), rtol=1e-6)
    assert found.intermediates["denominator"] == pytest.approx(found.intermediates["exponentials"].sum())
    assert found.recomputed == found.intermediates["exponentials"][2] / found.intermediates["denominator"]


def test_the_future_is_masked(tiny):
    found = explain(tiny.run(TEXT), STEPS["pattern"], (1, 2, 4), 0)
    assert found.recomputed == found.model_value == 0
    assert len(found.operands["scores"]) == 3
    trace = corrupted(tiny, "pattern", 0, (1, 2, 4), lambda x: np.float32(1e-6))
    assert check(trace, STEPS["pattern"], 0).at == (1, 2, 4)


def test_a_normed_value_is_explained_by_mean_and_variance(tiny):
    trace = tiny.run(TEXT)
    found = explain(trace, STEPS["norm2"], (3, 9), 1)
    row = trace["resid_mid", 1][3].astype(np.float64)
    assert found.operands["x"].tolist() == row.tolist()
    assert found.operands["gain"] == tiny.weights["trf_blocks.1.norm2.scale"][9]
    assert found.operands["bias"] == tiny.weights["trf_blocks.1.norm2.shift"][9]
    assert found.operands["eps"] == 1e-5
    assert found.intermediates["mean"] == pytest.approx(row.mean())
    assert found.intermediates["variance"] == pytest.approx(row.var())
    assert found.intermediates["normalised"] == pytest.approx((row[9] - row.mean()) / np.sqrt(row.var() + 1e-5))


def test_a_linear_value_has_its_row_of_weights_and_its_bias(tiny):
    trace = tiny.run(TEXT)
    found = explain(trace, STEPS["key"], (3, 2, 1), 1)  # head 2, dimension 1: row 9 of 16
    assert found.operands["x"].tolist() == trace["norm1_out", 1][3].tolist()
    assert found.operands["weight"].tolist() == tiny.weights["trf_blocks.1.att.W_key.weight"][9].tolist()
    assert found.operands["bias"] == tiny.weights["trf_blocks.1.att.W_key.bias"][9]
    joined = explain(trace, STEPS["out_proj"], (3, 5), 1)
    assert joined.operands["x"].tolist() == trace["z", 1][3].ravel().tolist()
    assert "bias" not in explain(trace, STEPS["logits"], (3, 257)).operands


def test_gelu_is_the_tanh_form(tiny):
    trace = tiny.run(TEXT)
    found = explain(trace, STEPS["gelu"], (2, 11), 1)
    assert found.operands["x"] == trace["pre", 1][2, 11]
    assert found.recomputed == pytest.approx(reference.gelu(found.operands["x"]), rel=1e-12)
    exact = trace["pre", 1].astype(np.float64)
    assert np.abs(reference.gelu(exact) - recompute(trace, STEPS["gelu"], 1)).max() < 1e-12


def test_layer_norm_by_hand():
    # mean 2, variance 1 (and eps): (3 - 2) / 1 * 10 + 1
    np.testing.assert_allclose(
        layer_norm(np.array([3.0, 1.0]), np.array([10.0, 2.0]), np.array([1.0, 0.0])), [11, -2], atol=1e-4
    )


@pytest.mark.parametrize("index", [(99, 0), (0, 999), (-1, 0)])
def test_a_cell_that_is_not_there_is_an_index_error(tiny, index):
    with pytest.raises(IndexError):
        explain(tiny.run(TEXT), STEPS["norm1"], index, 0)


def test_a_block_step_without_a_layer_is_an_error(tiny):
    with pytest.raises(ValueError, match="Every layer has the step 'norm1': say which"):
        check(tiny.run(TEXT), STEPS["norm1"])
