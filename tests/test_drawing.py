"""The boxes of the drawing: every number is the model's, and each block is in exactly one box."""

import numpy as np
import pytest
from tiny import tiny_engine

from gptviz.config import block_parameters
from gptviz.ui.drawing import in_runs
from pages.birds_eye import model_drawing


@pytest.fixture(scope="module")
def deep():
    return tiny_engine(n_layers=24).run("the cat sat on the mat")


def mean_length(vectors):
    return np.sqrt((np.asarray(vectors, dtype=np.float64) ** 2).sum(axis=-1)).mean()


def number(words):
    """Return the first number of a text such as "length 21.6"."""
    return float(next(word for word in words.replace(",", "").split() if word[0].isdigit()))


def blocks_in(boxes):
    """Return the numbers of the blocks, in order, whether a box has one or several."""
    return [block["fold"] for box in boxes for block in box.get("run", [box])]


def test_lengths_shapes_and_parameters_are_the_models(tiny):
    trace = tiny.run("the cat sat")
    parts = model_drawing(trace, 1, explained=False)
    token, position, _ = parts["embeddings"]
    assert number(token["length"]) == pytest.approx(mean_length(trace["embed"]), abs=0.0501)
    assert number(position["length"]) == pytest.approx(mean_length(trace["resid_pre", 0]), abs=0.0501)
    for layer, block in enumerate(parts["blocks"]):
        assert block["title"] == f"Transformer block {layer}"
        assert block["shape"] == f"[1, {len(trace)}, 16]"
        assert number(block["length"]) == pytest.approx(mean_length(trace["resid_post", layer]), abs=0.0501)
        assert block["parameters"] == f"{block_parameters(trace.config):,} parameters"
    final_norm, head, prediction = parts["head"]
    assert number(final_norm["length"]) == pytest.approx(mean_length(trace["final_norm_out"]), abs=0.0501)
    assert number(head["length"]) == pytest.approx(mean_length(trace["logits"][-1:]), abs=0.0501)
    assert head["shape"] == f"[1, {len(trace)}, 50,257]"
    logits = np.asarray(trace["logits"][-1], dtype=np.float64)
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    shown = [float(chip.rsplit(" ", 1)[1].rstrip("%")) for chip in prediction["chips"]]
    assert shown == pytest.approx(sorted(100 * probabilities, reverse=True)[:3], abs=0.0501)


def test_only_the_unfolded_block_holds_its_parts(tiny):
    trace = tiny.run("the cat sat")
    for unfolded in (-1, 0, 2):
        blocks = model_drawing(trace, unfolded, explained=False)["blocks"]
        assert [block["fold"] for block in blocks if "inside" in block] == [unfolded][unfolded < 0 :]
    parts = blocks[2]["inside"]
    assert [part["kind"] for part in parts] == 2 * ["part", "part", "part", "add"]
    assert parts[-1]["length"] == blocks[2]["length"]
    assert {part["page"] for part in parts} == {"attention 2", "block 2"}


def test_one_block_explains_all(tiny):
    trace = tiny.run("the cat sat")
    for unfolded, explained_block in ((-1, 0), (0, 0), (2, 2)):
        parts = model_drawing(trace, unfolded, explained=True)
        assert [block["fold"] for block in parts["blocks"] if "explanation" in block] == [explained_block]
        assert all("explanation" in box for box in (*parts["embeddings"], *parts["head"][:-1]))
    plain = model_drawing(trace, 2, explained=False)
    boxes = [box for row in plain.values() for box in row] + plain["blocks"][2]["inside"]
    assert not any("explanation" in box for box in boxes)


@pytest.mark.parametrize("unfolded", range(-1, 24))
def test_a_deep_models_blocks_fit_in_a_few_boxes_and_each_is_in_one(deep, unfolded):
    boxes = model_drawing(deep, unfolded, explained=False)["blocks"]
    assert blocks_in(boxes) == list(range(24))
    assert len(boxes) <= 12
    assert all(unfolded not in blocks_in([box]) for box in boxes if "run" in box)


def test_a_runs_box_says_how_many_blocks_it_has_and_shows_the_last_ones_output(deep):
    boxes = model_drawing(deep, 10, explained=False)["blocks"]
    runs = [box for box in boxes if "run" in box]
    assert [run["title"] for run in runs] == [
        "Transformer blocks 3 to 9: 7 blocks",
        "Transformer blocks 11 to 20: 10 blocks",
    ]
    for run, last in zip(runs, (9, 20), strict=True):
        assert number(run["length"]) == pytest.approx(mean_length(deep["resid_post", last]), abs=0.0501)
        assert run["parameters"] == f"{block_parameters(deep.config):,} parameters each"


def test_fewer_than_24_blocks_are_all_shown():
    blocks = [{"title": f"Transformer block {layer}", "fold": layer} for layer in range(23)]
    assert in_runs(blocks) == blocks
