import numpy as np
import pytest
import torch

from gptviz.analysis.anatomy import anatomy, mean_norm, parameter_tree, size_table
from gptviz.config import GPT_CONFIGS, parameter_count
from gptviz.experiments.skeleton import dummy_logits
from gptviz.model import GPTModel


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_every_row_of_the_tree_counts_the_models_own_parameters(tied, qkv_bias):
    config = {**GPT_CONFIGS["small"], "qkv_bias": qkv_bias}
    with torch.device("meta"):
        model = GPTModel(config, tied_head=tied)
    own = {name: parameter.numel() for name, parameter in model.named_parameters()}
    tree = parameter_tree(config, tied_head=tied).set_index("id")
    assert tree.loc["model", "parameters"] == sum(own.values())
    for part in (id for id in tree.index if id != "model" and not id.endswith(".norms")):
        assert tree.loc[part, "parameters"] == sum(n for name, n in own.items() if name.startswith(f"{part}.")), part
    norms = sum(n for name, n in own.items() if name.startswith(("trf_blocks.3.norm1", "trf_blocks.3.norm2")))
    assert tree.loc["trf_blocks.3.norms", "parameters"] == norms


def test_children_sum_to_their_parent():
    tree = parameter_tree(GPT_CONFIGS["medium"], tied_head=True)
    sums = tree[tree["parent"] != ""].groupby("parent")["parameters"].sum()
    totals = tree.set_index("id")["parameters"]
    assert (sums == totals[sums.index]).all()


def test_parts_hold_all_parameters_and_live_norms(tiny):
    trace = tiny.run("the cat sat")
    parts = anatomy(trace, unfolded=1)
    assert sum(part.n_parameters for part in parts) == tiny.n_parameters
    (opened,) = [part for part in parts if part.inside]
    assert opened.name == "trf_blocks.1"
    assert sum(part.n_parameters for part in opened.inside) == opened.n_parameters
    assert opened.norm == opened.inside[-1].norm == mean_norm(trace["resid_post", 1])
    by_name = {part.name: part for part in parts}
    assert by_name["pos_emb"].norm == mean_norm(trace["resid_pre", 0])
    assert by_name["out_head"].norm == pytest.approx(np.linalg.norm(trace["logits"][-1]))
    assert by_name["out_head"].shape == (1, len(trace), 50257)


def test_sizes_come_from_the_configs():
    table = size_table(GPT_CONFIGS)
    assert table["parameters"].tolist() == [parameter_count(config, tied_head=True) for config in GPT_CONFIGS.values()]
    assert table["megabytes"][0] == pytest.approx(124_412_160 * 4 / 1e6)


def test_skeleton_is_blind_to_what_came_before_and_the_model_is_not(tiny):
    text = tiny.tokenize("the cat sat on the mat")
    turned = tiny.tokenizer.tokens((*reversed(text.ids[:-1]), text.ids[-1]))
    first, second = dummy_logits(tiny.config, [text, turned])
    np.testing.assert_array_equal(first, second)
    assert first.shape == (50257,)
    assert np.abs(tiny.run(text).logits_at(-1) - tiny.run(turned).logits_at(-1)).max() > 0.1
