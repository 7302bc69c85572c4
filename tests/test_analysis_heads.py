import numpy as np
import pytest
import torch
from tiny import tiny_engine

from gptviz.analysis import heads
from gptviz.analysis.logit_attribution import attribute_logit, frozen_scale
from gptviz.numerics import head_kinds


def test_all_heads_of_a_model_one_row_each(tiny):
    trace = tiny.run("a b c a b c a")
    table = heads.all_head_scores(trace)
    assert list(zip(table["layer"], table["head"], strict=True)) == list(np.ndindex(3, 4))
    second = head_kinds.head_scores(trace["pattern", 2], trace.tokens.ids)
    assert table[table["layer"] == 2]["induction"].tolist() == second["induction"].tolist()


def test_the_ov_circuit_is_the_heads_contribution_to_the_logits(tiny):
    """The pattern times each key's effect, summed over keys, is the head's contribution to the logits."""
    trace, layer, head, query = tiny.run("the cat sat on the mat"), 1, 2, 4
    scale = float(frozen_scale(trace["resid_post", 2][query]))
    values = trace["v", layer][:, head]
    effects = np.stack([heads.ov_effect(tiny.weights, layer, head, value, scale) for value in values])
    total = trace["pattern", layer][head, query] @ effects
    for token in (257, 5):
        table = attribute_logit(trace, query, token).set_index("part")["contribution"]
        assert total[token] == pytest.approx(table["L1H2"], abs=1e-4)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_the_value_of_a_bare_token_is_the_models_own(qkv_bias):
    engine = tiny_engine(qkv_bias=qkv_bias)
    block = engine._model.trf_blocks[1]
    with torch.inference_mode():
        v = block.att.W_value(block.norm1(engine._model.tok_emb(torch.tensor([[464]]))))[0, 0].numpy()
    for head in range(4):
        value = heads.value_of_token(engine.weights, 1, head, 464)
        np.testing.assert_allclose(value, v[head * 4 : (head + 1) * 4], atol=1e-5)


def test_factor_1_keeps_every_weight_to_the_nearest_level(tiny):
    trace = tiny.run("the cat sat on the mat")
    tiles = heads.all_tiles(trace, 1)
    for layer in range(tiny.config["n_layers"]):
        np.testing.assert_allclose(tiles[layer] / 255, trace["pattern", layer], atol=0.5 / 255 + 1e-6)
