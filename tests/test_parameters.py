"""Weights found by role are those of the model: each is checked against the activations it produces."""

import numpy as np
import pytest
from tiny import tiny_engine

N_HEADS, HEAD_DIM, EMB_DIM, N_NEURONS = 4, 4, 16, 64


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.run("the cat sat on the mat")


def test_embeddings_and_output_head(tiny, trace):
    weights, ids = tiny.weights, list(trace.tokens.ids)
    np.testing.assert_array_equal(weights.w_e[ids], trace["embed"])
    np.testing.assert_array_equal(weights.w_pos[: len(ids)], trace["pos_embed"])
    assert weights.w_pos.shape == (tiny.config["context_length"], EMB_DIM)
    np.testing.assert_allclose(trace["final_norm_out"] @ weights.w_u.T, trace["logits"], atol=1e-4)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_queries_keys_and_values_by_head(tiny, trace, name, layer):
    matrix, bias = (getattr(tiny.weights, f"{kind}_{name}")(layer) for kind in "wb")
    assert (matrix.shape, bias.shape) == ((N_HEADS, HEAD_DIM, EMB_DIM), (N_HEADS, HEAD_DIM))
    made = np.einsum("hde,pe->phd", matrix, trace["norm1_out", layer]) + bias
    np.testing.assert_allclose(made, trace[name, layer], atol=1e-5)


def test_heads_add_up_to_the_attentions_output(tiny, trace):
    weights = tiny.weights
    made = np.einsum("phd,hde->pe", trace["z", 1], weights.w_o(1)) + weights.b_o(1)
    np.testing.assert_allclose(made, trace["attn_out", 1], atol=1e-5)


def test_neurons_read_and_write_the_stream(tiny, trace):
    weights = tiny.weights
    assert weights.w_in(1).shape == weights.w_out(1).shape == (N_NEURONS, EMB_DIM)
    np.testing.assert_allclose(trace["norm2_out", 1] @ weights.w_in(1).T + weights.b_in(1), trace["pre", 1], atol=1e-5)
    np.testing.assert_allclose(trace["post", 1] @ weights.w_out(1) + weights.b_out(1), trace["mlp_out", 1], atol=1e-5)


def normed(x, norm):
    x = x.astype(np.float64)
    return norm.gain * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) + norm.bias


def test_norms(tiny, trace):
    np.testing.assert_allclose(normed(trace["resid_pre", 2], tiny.weights.norm1(2)), trace["norm1_out", 2], atol=1e-5)
    np.testing.assert_allclose(normed(trace["resid_mid", 2], tiny.weights.norm2(2)), trace["norm2_out", 2], atol=1e-5)
    np.testing.assert_allclose(
        normed(trace["resid_post", 2], tiny.weights.final_norm), trace["final_norm_out"], atol=1e-5
    )


def test_a_model_without_these_biases_has_none():
    weights = tiny_engine(qkv_bias=False).weights
    assert (weights.b_q(0), weights.b_k(0), weights.b_v(0)) == (None, None, None)


@pytest.mark.parametrize(
    "role", ["w_q", "b_q", "w_k", "b_k", "w_v", "b_v", "w_o", "b_o", "w_in", "b_in", "w_out", "b_out"]
)
def test_every_role_is_a_read_only_view_of_the_models_memory(tiny, role):
    array = getattr(tiny.weights, role)(1)
    assert not array.flags.writeable
    parameters = [parameter.numpy() for parameter in tiny._model.trf_blocks[1].parameters()]
    assert sum(np.shares_memory(array, parameter) for parameter in parameters) == 1


def test_an_unknown_layer_is_a_key_error(tiny):
    with pytest.raises(KeyError, match="known are: tok_emb"):
        tiny.weights.w_q(3)
