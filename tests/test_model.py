import numpy as np
import pytest
import reference
import torch
from tiny import TINY, tiny_model

from gptviz.model import (
    GELU,
    ContextLengthError,
    DummyGPTModel,
    GPTModel,
    KeyValueCache,
    LayerNorm,
    MultiHeadAttention,
    TransformerBlock,
)

NAMES = ["tok_emb.weight", "pos_emb.weight"]
for layer in range(TINY["n_layers"]):
    NAMES += [f"trf_blocks.{layer}.norm{norm}.{part}" for norm in (1, 2) for part in ("scale", "shift")]
    NAMES += [f"trf_blocks.{layer}.att.{name}.weight" for name in ("W_query", "W_key", "W_value", "out_proj")]
    NAMES += [f"trf_blocks.{layer}.att.out_proj.bias"]
    NAMES += [f"trf_blocks.{layer}.ff.layers.{at}.{part}" for at in (0, 2) for part in ("weight", "bias")]
NAMES += ["final_norm.scale", "final_norm.shift", "out_head.weight"]
QKV_BIASES = [f"trf_blocks.{layer}.att.W_{name}.bias" for layer in range(3) for name in ("query", "key", "value")]


def some_ids(*shape, seed=0):
    return torch.randint(0, TINY["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_parameters_have_the_courses_names():
    assert sorted(GPTModel({**TINY, "qkv_bias": False}).state_dict()) == sorted(NAMES)
    assert sorted(GPTModel(TINY).state_dict()) == sorted(NAMES + QKV_BIASES)


@pytest.mark.parametrize("n_tokens", [1, 7, 32])
def test_logits_are_batch_by_tokens_by_vocabulary(model, n_tokens):
    assert model(some_ids(2, n_tokens)).shape == (2, n_tokens, 50257)


def test_attention_and_block_keep_the_shape():
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    assert MultiHeadAttention(TINY)(x).shape == x.shape
    assert TransformerBlock(TINY)(x).shape == x.shape


def test_layer_norm_follows_its_formula():
    random = np.random.default_rng(0)
    x, scale, shift = 3 + 5 * random.normal(size=(2, 4, 16)), random.normal(size=16), random.normal(size=16)
    norm = LayerNorm(16)
    with torch.no_grad():
        norm.scale.copy_(torch.tensor(scale))
        norm.shift.copy_(torch.tensor(shift))
        ours = norm(torch.tensor(x, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(ours, reference.layer_norm(x, scale, shift), atol=1e-5)


def test_layer_norm_of_a_constant_is_its_shift_and_not_nan():
    assert torch.equal(LayerNorm(16)(torch.full((1, 2, 16), 7.0)), torch.zeros(1, 2, 16))


def test_layer_norm_divides_by_the_biased_variance():
    x = torch.tensor([[[1.0, 3.0]]])
    np.testing.assert_allclose(LayerNorm(2)(x).detach().numpy(), [[[-1, 1]]], atol=1e-4)


@pytest.mark.parametrize(
    ("q", "k"),
    [(np.nan, 1), (1, np.nan), (np.inf, 1), (1e25, 1e25), (1e25, -1e25), (3e38, -3e38), (1e20, 1e19), (-1e38, 8)],
    ids=str,
)
@pytest.mark.parametrize("n_tokens", [1, 6])
def test_scores_that_are_no_numbers_are_seen_behind_attention(q, k, n_tokens):
    """PyTorch's fused kernel may hide both finite weights that overflow in the product, and values that are NaN."""
    attention = MultiHeadAttention(TINY).eval().requires_grad_(False)
    for linear, value in ((attention.W_query, q), (attention.W_key, k)):
        linear.weight.zero_()
        linear.bias.fill_(value)
    x = torch.randn(1, n_tokens, 16, generator=torch.Generator().manual_seed(0))
    with np.errstate(over="ignore"):
        score = np.float32(q * 4**-0.5) * np.float32(k) * np.float32(4)
    assert bool(attention(x).isfinite().any()) == bool(np.isfinite(score))


def test_one_row_that_is_no_number_leaves_the_earlier_ones(model):
    attention = model.trf_blocks[0].att
    x = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0))
    broken = x.clone()
    broken[0, 5] = torch.nan
    rows = attention(broken).isfinite().all(dim=-1)[0].tolist()
    assert not any(rows[5:])


def test_gelu_is_the_tanh_form():
    x = np.linspace(-6, 6, 1001)
    ours = GELU()(torch.tensor(x)).numpy()
    np.testing.assert_allclose(ours, reference.gelu(x), atol=1e-12)
    exact = torch.nn.functional.gelu(torch.tensor(x)).numpy()
    assert np.abs(ours - exact).max() > 1e-4


@pytest.mark.parametrize(("tied_head", "qkv_bias"), [(False, True), (True, True), (False, False)])
def test_logits_equal_a_float64_forward_pass_in_numpy(tied_head, qkv_bias):
    model = tiny_model(seed=3, tied_head=tied_head, qkv_bias=qkv_bias)
    ids = some_ids(2, 32)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    expected = np.stack([reference.forward(row.tolist(), weights, n_heads=4) for row in ids])
    np.testing.assert_allclose(model(ids).numpy(), expected, atol=2e-4)


def test_a_later_token_changes_nothing_before_it(model):
    ids = some_ids(1, 12)
    changed = ids.clone()
    changed[0, 7] = (changed[0, 7] + 1) % TINY["vocab_size"]
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=1e-5)
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=-1).min() > 0.01


def test_the_order_of_earlier_tokens_matters(model):
    ids = some_ids(1, 6)
    swapped = ids[:, [1, 0, 2, 3, 4, 5]]
    assert (model(ids)[:, -1] - model(swapped)[:, -1]).abs().max() > 0.01


@pytest.mark.parametrize("cuts", [[1] * 12, [5, 1, 6], [11, 1]])
def test_a_cache_changes_nothing(model, cuts):
    ids = some_ids(1, 12)
    caches = [KeyValueCache() for _ in range(3)]
    pieces = [model.stream(piece, caches) for piece in ids.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model.stream(ids), rtol=0, atol=1e-4)
    assert [len(cache) for cache in caches] == [12, 12, 12]


def listen(module, kind):
    """Register a hook that changes nothing; return a list that grows by one entry per call."""
    calls = []
    register = {
        "input": module.register_forward_pre_hook,
        "output": module.register_forward_hook,
        "gradient": module.register_full_backward_hook,
    }[kind]
    register(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("kind", ["input", "output"])
@pytest.mark.parametrize("part", ["causal_softmax", "dropout"])
def test_whoever_listens_inside_attention_hears_and_changes_nothing(part, kind):
    ids = some_ids(2, 12)
    unheard = tiny_model()(ids)
    heard = tiny_model()
    calls = [listen(block.att.get_submodule(part), kind) for block in heard.trf_blocks[1:]]
    torch.testing.assert_close(heard(ids), unheard, rtol=0, atol=1e-4)
    assert calls == [[1], [1]]
    caches = [KeyValueCache() for _ in range(3)]
    pieces = [heard.stream(piece, caches) for piece in ids.split([5, 1, 1, 5], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), tiny_model().stream(ids), rtol=0, atol=1e-4)
    assert calls == [[1] * 5] * 2


def test_gradients_are_heard_inside_attention():
    model = tiny_model()
    model.requires_grad_(True)
    calls = listen(model.trf_blocks[1].att.causal_softmax, "gradient")
    model(some_ids(1, 6)).sum().backward()
    assert calls == [1]


def test_what_a_hook_puts_in_place_of_the_pattern_is_what_goes_on():
    model = tiny_model()
    ids = some_ids(1, 6)
    before = model(ids)
    handle = model.trf_blocks[0].att.causal_softmax.register_forward_hook(lambda *_: torch.zeros(1, 4, 6, 6))
    assert (model(ids) - before).abs().max() > 0.01
    handle.remove()
    assert torch.equal(model(ids), before)


def test_attention_dropout_alone_drops():
    model = tiny_model()
    ids = some_ids(1, 8)
    quiet = model(ids)
    for block in model.trf_blocks:
        block.att.dropout.train()
        block.att.dropout.p = 0.5
    torch.manual_seed(0)
    assert not torch.allclose(model(ids), quiet)


@pytest.mark.parametrize("model_class", [GPTModel, DummyGPTModel])
def test_too_many_tokens_are_an_error_of_their_own(model_class):
    with pytest.raises(ContextLengthError, match="has 33 tokens, and the model takes at most 32: shorten") as caught:
        model_class(TINY)(some_ids(1, 33))
    assert (caught.value.n_tokens, caught.value.context_length) == (33, 32)
    assert isinstance(caught.value, ValueError)


def test_tokens_in_the_cache_count_against_the_context(model):
    caches = [KeyValueCache() for _ in range(3)]
    model.stream(some_ids(1, 30), caches)
    model.stream(some_ids(1, 2), caches)
    with pytest.raises(ContextLengthError, match="33 tokens"):
        model.stream(some_ids(1, 1), caches)
    assert [len(cache) for cache in caches] == [32, 32, 32]


def dropouts(model):
    return {name for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}


def test_dropout_sits_on_the_embedding_the_weights_and_both_shortcuts():
    assert dropouts(GPTModel({**TINY, "n_layers": 1})) == {
        "drop_emb",
        "trf_blocks.0.att.dropout",
        "trf_blocks.0.drop_shortcut",
    }
    assert {module.p for module in GPTModel(TINY).modules() if isinstance(module, torch.nn.Dropout)} == {0.1}


@pytest.mark.parametrize("active", sorted(dropouts(GPTModel({**TINY, "n_layers": 1}))))
def test_each_dropout_changes_the_result_in_training_only(active):
    model = tiny_model(n_layers=1)
    for name in dropouts(model):
        model.get_submodule(name).p = 0.5 if name == active else 0.0
    ids = some_ids(1, 8)
    quiet = model(ids)
    assert torch.equal(model(ids), quiet)
    model.train()
    torch.manual_seed(0)
    assert not torch.allclose(model(ids), quiet)
    model.eval()
    assert torch.equal(model(ids), quiet)


def test_a_tied_head_is_one_tensor_and_an_untied_one_two():
    tied, untied = GPTModel(TINY, tied_head=True), GPTModel(TINY)
    assert tied.tied_head
    assert tied.out_head.weight is tied.tok_emb.weight
    assert not untied.tied_head
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 50257 * 16


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="divisible"):
        MultiHeadAttention({**TINY, "n_heads": 3})


def test_the_dummy_has_the_models_shape_and_the_courses_names():
    dummy = DummyGPTModel(TINY)
    assert dummy(some_ids(2, 4)).shape == (2, 4, 50257)
    assert sorted(dummy.state_dict()) == ["out_head.weight", "pos_emb.weight", "tok_emb.weight"]
    assert len(dummy.trf_blocks) == 3


def test_the_dummy_sees_each_token_alone():
    dummy = DummyGPTModel(TINY).eval()
    ids = some_ids(1, 6)
    other_context = some_ids(1, 6, seed=1)
    other_context[0, 5] = ids[0, 5]
    torch.testing.assert_close(dummy(ids)[:, 5], dummy(other_context)[:, 5])
    assert not torch.allclose(dummy(ids)[:, 4], dummy(other_context)[:, 4])
    expected = (dummy.tok_emb.weight[ids[0]] + dummy.pos_emb.weight[:6]) @ dummy.out_head.weight.T
    torch.testing.assert_close(dummy(ids)[0], expected)
