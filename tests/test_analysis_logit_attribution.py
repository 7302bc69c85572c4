import numpy as np
import pytest
import torch
from tiny import tiny_engine

from gptviz.analysis.logit_attribution import attribute_logit, direct_effect, frozen_scale, pushed_tokens

TEXT = "Once upon a time there was a little girl"


@pytest.fixture(scope="module", params=["tiny", "tied, no qkv bias", "story"])
def engine(request):
    if request.param.startswith("tied"):
        return tiny_engine(seed=1, tied_head=True, qkv_bias=False)
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def trace(engine):
    return engine.run(TEXT)


@pytest.mark.parametrize("position", [0, 4, -1])
@pytest.mark.parametrize("token", [257, 50256])
def test_the_contributions_sum_to_the_logit(engine, trace, position, token):
    table = attribute_logit(trace, position, token)
    assert table["contribution"].sum() == pytest.approx(trace.logits_at(position)[token], abs=1e-3)


def test_of_two_tokens_they_sum_to_the_difference(engine, trace):
    table = attribute_logit(trace, 5, 257, against=640)
    logits = trace.logits_at(5)
    assert table["contribution"].sum() == pytest.approx(logits[257] - logits[640], abs=1e-3)
    separate = [attribute_logit(trace, 5, token)["contribution"] for token in (257, 640)]
    np.testing.assert_allclose(table["contribution"], separate[0] - separate[1], atol=1e-9)


def test_every_part_has_one_row(engine, trace):
    n_layers, n_heads = trace.config["n_layers"], trace.config["n_heads"]
    table = attribute_logit(trace, 2, 257)
    counts = {"embed": 1, "pos_embed": 1, "head": n_layers * n_heads, "attention_bias": n_layers, "mlp": n_layers}
    assert table["kind"].value_counts().to_dict() == counts | {"norm_shift": 1}
    assert table["part"].is_unique
    heads = table[table["kind"] == "head"]
    assert list(zip(heads["layer"], heads["head"], strict=True)) == list(np.ndindex(n_layers, n_heads))
    assert table[table["kind"] != "head"]["head"].isna().all()


def test_each_contribution_is_what_the_logit_loses_without_the_part(engine, trace):
    """Subtract the part from the last stream, and divide by the same scale as before."""
    position, token = 3, 257
    n_layers, head_dim = trace.config["n_layers"], trace.config["emb_dim"] // trace.config["n_heads"]
    weights = {name: engine.weights[name].astype(np.float64) for name in ("final_norm.scale", "final_norm.shift")}
    row = engine.weights["out_head.weight"][token].astype(np.float64)
    final = trace["resid_post", n_layers - 1][position].astype(np.float64)
    scale = np.sqrt(final.var() + 1e-5)

    def logit(stream):
        return row @ (weights["final_norm.scale"] * (stream - stream.mean()) / scale + weights["final_norm.shift"])

    written = {"token embedding": trace["embed"], "positional embedding": trace["pos_embed"]}
    for layer in range(n_layers):
        out_proj = engine.weights[f"trf_blocks.{layer}.att.out_proj.weight"]
        written[f"L{layer} MLP"] = trace["mlp_out", layer]
        written[f"L{layer} attention bias"] = engine.weights[f"trf_blocks.{layer}.att.out_proj.bias"][None].repeat(9, 0)
        for head in range(trace.config["n_heads"]):
            columns = slice(head * head_dim, (head + 1) * head_dim)
            written[f"L{layer}H{head}"] = trace["z", layer][:, head] @ out_proj[:, columns].T
    table = attribute_logit(trace, position, token).set_index("part")["contribution"]
    assert set(table.index) == {*written, "final norm's bias"}
    for part, stream in written.items():
        assert table[part] == pytest.approx(logit(final) - logit(final - stream[position]), abs=1e-4), part
    assert table["final norm's bias"] == pytest.approx(row @ weights["final_norm.shift"])


def test_the_frozen_scale_is_the_norms_divisor(trace):
    stream = trace["resid_post", trace.config["n_layers"] - 1]
    plain = torch.nn.functional.layer_norm(torch.tensor(np.array(stream)), stream.shape[-1:]).numpy()
    centred = stream - stream.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(centred / frozen_scale(stream)[:, None], plain, atol=1e-5)


def test_the_direct_effect_of_a_part_is_its_contribution_to_every_logit(engine, trace):
    position = 6
    scale = float(frozen_scale(trace["resid_post", trace.config["n_layers"] - 1][position]))
    effect = direct_effect(engine.weights, trace["mlp_out", 1][position], scale)
    assert effect.shape == (50257,)
    for token in (257, 0):
        table = attribute_logit(trace, position, token).set_index("part")["contribution"]
        assert effect[token] == pytest.approx(table["L1 MLP"], abs=1e-4)


def test_direct_effects_of_many_vectors_are_those_of_each(tiny):
    vectors = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    together = direct_effect(tiny.weights, vectors)
    assert together.dtype == np.float32
    for vector, effect in zip(vectors, together, strict=True):
        np.testing.assert_allclose(direct_effect(tiny.weights, vector), effect, atol=1e-5)
    np.testing.assert_allclose(
        direct_effect(tiny.weights, vectors[0] + 5), together[0], atol=1e-4
    )  # The final norm subtracts the mean, so a constant has no effect.


def test_pushed_tokens_are_the_most_raised_and_the_most_lowered():
    table = pushed_tokens(np.array([0.0, 5.0, -2.0, 1.0, -7.0, 3.0]), k=2)
    assert table["id"].tolist() == [1, 5, 2, 4]
    assert table["effect"].tolist() == [5, 3, -2, -7]
    assert table["token"].tolist() == ['"', "&", "#", "%"]
