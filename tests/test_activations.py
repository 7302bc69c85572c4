from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_engine

import gptviz
from gptviz import ACTIVATIONS
from gptviz.catalog import MODELS
from gptviz.hooks import keys, record
from gptviz.trace import Trace

# The contract with every view, notebook and page: names, whether there is one per layer, and shapes.
CONTRACT = {
    "embed": (False, ("pos", "emb_dim")),
    "pos_embed": (False, ("pos", "emb_dim")),
    "resid_pre": (True, ("pos", "emb_dim")),
    "resid_mid": (True, ("pos", "emb_dim")),
    "resid_post": (True, ("pos", "emb_dim")),
    "norm1_out": (True, ("pos", "emb_dim")),
    "norm2_out": (True, ("pos", "emb_dim")),
    "final_norm_out": (False, ("pos", "emb_dim")),
    "q": (True, ("pos", "head", "head_dim")),
    "k": (True, ("pos", "head", "head_dim")),
    "v": (True, ("pos", "head", "head_dim")),
    "z": (True, ("pos", "head", "head_dim")),
    "attn_scores": (True, ("head", "pos", "pos")),
    "pattern": (True, ("head", "pos", "pos")),
    "attn_out": (True, ("pos", "emb_dim")),
    "mlp_out": (True, ("pos", "emb_dim")),
    "pre": (True, ("pos", "4*emb_dim")),
    "post": (True, ("pos", "4*emb_dim")),
    "logits": (False, ("pos", "vocab_size")),
}
TEXT = "Once upon a time there was a little girl, and the girl was a little fox."


@pytest.fixture(scope="module", params=["tiny", "tied", "story"])
def engine(request):
    return tiny_engine(seed=1, tied_head=True) if request.param == "tied" else request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def trace(engine):
    return engine.run(TEXT)


def all_keys(config):
    for name, (per_layer, _) in CONTRACT.items():
        yield from ((name, layer) for layer in range(config["n_layers"])) if per_layer else (name,)


def test_the_table_of_names_is_the_contract():
    assert set(ACTIVATIONS) == set(CONTRACT)


def test_every_activation_has_its_shape(trace):
    config, n_pos = trace.config, len(trace)
    sizes = {
        "pos": n_pos,
        "emb_dim": config["emb_dim"],
        "4*emb_dim": 4 * config["emb_dim"],
        "head": config["n_heads"],
        "head_dim": config["emb_dim"] // config["n_heads"],
        "vocab_size": 50257,
    }
    for key in all_keys(config):
        name = key if isinstance(key, str) else key[0]
        assert trace[key].shape == tuple(sizes[axis] for axis in CONTRACT[name][1]), key
        assert trace[key].dtype == np.float32, key


def test_every_activation_is_read_only(trace):
    for key in all_keys(trace.config):
        with pytest.raises(ValueError, match="read-only"):
            trace[key][..., 0] = 0
    for positions in (-1, 0, slice(2)):
        assert not trace.logits_at(positions).flags.writeable


def test_the_stream_begins_with_the_embeddings(trace):
    np.testing.assert_allclose(trace["embed"] + trace["pos_embed"], trace["resid_pre", 0], atol=1e-6)


def test_each_sub_layer_adds_to_the_stream(trace):
    for layer in range(trace.config["n_layers"]):
        before, middle, after = (trace[f"resid_{where}", layer] for where in ("pre", "mid", "post"))
        np.testing.assert_allclose(before + trace["attn_out", layer], middle, atol=1e-5)
        np.testing.assert_allclose(middle + trace["mlp_out", layer], after, atol=1e-5)


def test_a_block_begins_where_the_last_one_ended(trace):
    for layer in range(1, trace.config["n_layers"]):
        assert np.array_equal(trace["resid_pre", layer], trace["resid_post", layer - 1])


def test_pattern_rows_sum_to_one_and_the_future_is_zero(trace):
    for layer in range(trace.config["n_layers"]):
        pattern = trace["pattern", layer]
        np.testing.assert_allclose(pattern.sum(axis=-1), 1, atol=1e-5)
        assert not np.triu(pattern, k=1).any()
        assert (pattern >= 0).all()


def test_the_pattern_is_the_softmax_of_the_masked_scores(trace):
    for layer in range(trace.config["n_layers"]):
        scores = trace["attn_scores", layer].astype(np.float64)
        assert np.isfinite(scores).all(), "scores are those before the mask"
        weights = np.tril(np.exp(scores - scores.max(axis=-1, keepdims=True)))
        np.testing.assert_allclose(trace["pattern", layer], weights / weights.sum(axis=-1, keepdims=True), atol=1e-5)


def test_scores_are_scaled_products_of_queries_and_keys(trace):
    for layer in range(trace.config["n_layers"]):
        q, k = trace["q", layer], trace["k", layer]
        expected = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
        np.testing.assert_allclose(trace["attn_scores", layer], expected, atol=2e-5 * np.abs(expected).max())


def test_z_is_the_pattern_weighted_values(trace):
    for layer in range(trace.config["n_layers"]):
        expected = np.einsum("hqk,khd->qhd", trace["pattern", layer], trace["v", layer])
        np.testing.assert_allclose(trace["z", layer], expected, atol=1e-5)


def test_linear_layers_lie_between_the_activations(engine, trace):
    for layer in range(trace.config["n_layers"]):
        block = f"trf_blocks.{layer}"
        joined = trace["z", layer].reshape(len(trace), -1)
        for source, name, target in [
            (joined, f"{block}.att.out_proj", trace["attn_out", layer]),
            (trace["norm2_out", layer], f"{block}.ff.layers.0", trace["pre", layer]),
            (trace["post", layer], f"{block}.ff.layers.2", trace["mlp_out", layer]),
        ]:
            expected = source @ engine.weights[f"{name}.weight"].T + engine.weights[f"{name}.bias"]
            np.testing.assert_allclose(target, expected, atol=2e-5 * max(1, np.abs(expected).max()))


def test_logits_are_the_normed_stream_times_the_head(engine, trace):
    expected = trace["final_norm_out"] @ engine.weights["out_head.weight"].T
    np.testing.assert_allclose(trace["logits"], expected, atol=1e-4)
    last_stream = trace["resid_post", trace.config["n_layers"] - 1]
    np.testing.assert_allclose(engine.unembed(last_stream), expected, atol=1e-4)


def test_derived_equals_captured(engine, trace):
    captured = engine.run(TEXT, keep=ACTIVATIONS)
    for key in all_keys(trace.config):
        np.testing.assert_allclose(trace[key], captured[key], atol=1e-5, rtol=1e-5, err_msg=str(key))
    for positions in (0, -2, slice(3, 9, 2)):
        np.testing.assert_allclose(
            trace.logits_at(positions), captured.logits_at(positions), atol=1e-5, rtol=1e-5, err_msg=str(positions)
        )


def test_a_kept_activation_is_not_computed_again(tiny, monkeypatch):
    kept = tiny.run(TEXT, keep=["pattern", "logits", "embed"])
    derived = tiny.run(TEXT)
    calls = []
    for trace in (kept, derived):
        monkeypatch.setattr(trace, "_derive", lambda *arguments: calls.append(arguments) or pytest.fail("derived"))
    assert kept["pattern", 2].shape[0] == 4
    assert len(kept["logits"]) == len(kept["embed"]) == len(kept)
    assert kept.logits_at(0).shape == (50257,)
    assert derived["resid_pre", 1] is derived["resid_post", 0]
    assert derived.logits_at(-1).shape == (50257,)
    assert calls == []


def test_what_was_derived_is_held(tiny):
    trace = tiny.run(TEXT)
    assert trace["q", 1] is trace["q", 1]
    assert trace["pattern", 1] is trace["pattern", 1]
    assert trace.logits_at(0) is trace.logits_at(0)


@pytest.mark.parametrize("position", [0, 3, -1, -4, np.int64(2)])
def test_logits_at_one_position_is_that_row(trace, position):
    np.testing.assert_allclose(trace.logits_at(position), trace["logits"][position], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [slice(None), slice(2, 5), slice(-3, None), slice(4, 4), slice(None, None, -1)])
def test_logits_at_a_slice_are_those_rows(trace, rows):
    np.testing.assert_allclose(trace.logits_at(rows), trace["logits"][rows], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("keep", [(), ("logits",)])
def test_logits_past_the_end_are_an_index_error(tiny, keep):
    trace = tiny.run("a b c", keep=keep)
    for position in (3, -4):
        with pytest.raises(IndexError):
            trace.logits_at(position)


@pytest.mark.parametrize("key", ["patterns", ("patterns", 0), "", ("Q", 1)])
def test_an_unknown_name_is_a_key_error_that_lists_the_known(trace, key):
    with pytest.raises(KeyError) as caught:
        trace[key]
    assert all(name in str(caught.value) for name in CONTRACT)


@pytest.mark.parametrize("layer", [3, -1, 99, None, 0.5])
def test_an_unknown_layer_is_a_key_error_that_names_the_range(tiny, layer):
    with pytest.raises(KeyError, match=r"ask for trace\['pattern', 0\] to trace\['pattern', 2\]"):
        tiny.run("a b")["pattern", layer]


def test_a_layer_where_there_is_none_and_none_where_there_is_are_key_errors(tiny):
    trace = tiny.run("a b")
    with pytest.raises(KeyError, match=r"ask for trace\['logits'\]"):
        trace["logits", 0]
    with pytest.raises(KeyError, match=r"trace\['q', 0\]"):
        trace["q"]


@pytest.mark.parametrize("key", [("pattern", 0, 1), 7, None, ()])
def test_a_key_of_another_form_is_a_key_error(tiny, key):
    with pytest.raises(KeyError, match="ask for"):
        tiny.run("a b")[key]


def test_one_token_is_enough(trace, engine):
    one = engine.run("a")
    assert one["pattern", 0].tolist() == [[[1.0]]] * trace.config["n_heads"]
    for key in all_keys(trace.config):
        assert np.isfinite(one[key]).all()


def hooks_of(model):
    return [
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]


def test_no_hook_stays_behind():
    engine = tiny_engine()
    engine.run(TEXT, keep=ACTIVATIONS)["pattern", 1]
    assert hooks_of(engine._model) == []


def test_no_hook_stays_behind_an_error_inside():
    engine = tiny_engine()
    with record(engine._model, keys(ACTIVATIONS, 3)):
        assert len(hooks_of(engine._model)) == len(keys(ACTIVATIONS, 3))
    assert hooks_of(engine._model) == []
    with pytest.raises(IndexError), record(engine._model, keys(ACTIVATIONS, 3)):
        engine._model(torch.tensor([[50257]]))
    assert hooks_of(engine._model) == []


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("norm1_out", {"norm1"}),
        ("q", {"norm1", "att.W_query"}),
        ("pattern", {"norm1", "att.W_query", "att.W_key", "att.W_value", "att.causal_softmax"}),
    ],
)
def test_what_is_derived_costs_only_what_lies_before_it(name, runs):
    engine = tiny_engine()
    trace = engine.run(TEXT)
    ran = set()
    for path, module in engine._model.trf_blocks[1].named_modules():
        module.register_forward_hook(lambda *_, path=path: ran.add(path))
    derived = trace._derive((name,), 1, trace["resid_pre", 1])[name]
    assert ran == runs
    np.testing.assert_allclose(derived, engine.run(TEXT, keep=[name])[name, 1], atol=1e-5)
    assert trace.logits_at(0).shape == (50257,)


def test_no_hook_stays_behind_an_unknown_name():
    engine = tiny_engine()
    with pytest.raises(KeyError), record(engine._model, [("embed", None), ("patterns", 0)]):
        pass
    assert hooks_of(engine._model) == []


def test_an_unknown_name_to_keep_is_a_key_error_that_lists_the_known(tiny):
    with pytest.raises(KeyError) as caught:
        tiny.run("a", keep=["patterns"])
    assert all(name in str(caught.value) for name in CONTRACT)


def test_hooks_that_fail_leave_the_engine_usable():
    engine = tiny_engine()
    before = engine.run("a b c").logits_at(-1)
    with pytest.raises(KeyError):
        engine.run("a b c", keep=["patterns"])
    assert np.array_equal(engine.run("a b c").logits_at(-1), before)


def test_derived_bytes_stay_within_the_budget(story):
    trace = story.run(TEXT * 4)
    for key in all_keys(trace.config):
        trace[key]
        held = sum(array.nbytes for array in trace._stream) + trace._last_logits.nbytes + trace._derived.size
        assert held <= trace.max_bytes
    for position in range(len(trace)):
        trace.logits_at(position)
    assert 0 < trace._derived.size <= trace._derived.max_bytes


def blank_trace(name, n_tokens):
    """Return a trace with a named model's shape and empty arrays, and the list of its calls to `derive`."""
    config = MODELS[name].config
    emb_dim, n_heads, head_dim = config["emb_dim"], config["n_heads"], config["emb_dim"] // config["n_heads"]
    sizes = {"pos": n_tokens, "emb_dim": emb_dim, "4*emb_dim": 4 * emb_dim, "head": n_heads, "head_dim": head_dim}
    calls = []

    def derive(names, layer, _source, _changes):
        calls.append((names, layer))
        return {name: np.zeros([sizes[axis] for axis in CONTRACT[name][1]], np.float32) for name in names}

    tokens = gptviz.Tokens((0,) * n_tokens, (b"!",) * n_tokens)
    stream = [np.zeros((n_tokens, emb_dim), np.float32)] * (config["n_layers"] + 1)
    engine = SimpleNamespace(config=config, derive=derive)
    return Trace(engine, tokens, stream, np.zeros(50257, np.float32)), calls


@pytest.mark.parametrize(("name", "n_tokens"), [("gpt2", 64), ("gpt2", 1024), ("distilgpt2", 1024), ("story-gpt", 256)])
def test_there_is_room_for_the_activations_of_one_block(name, n_tokens):
    trace, calls = blank_trace(name, n_tokens)
    for key in ("q", "post", "mlp_out"):
        trace[key, 2]
        trace[key, 2]
    assert len(calls) == 1
    trace["pattern", 2]
    trace["pattern", 2]
    assert len(calls) == 2


@pytest.mark.parametrize(("n_tokens", "megabytes"), [(64, 10), (1024, 120)])
def test_a_trace_of_gpt2_smalls_shape_stays_small(n_tokens, megabytes):
    trace, _ = blank_trace("gpt2", n_tokens)
    assert trace.max_bytes <= megabytes * 1e6


@pytest.mark.slow
def test_a_real_trace_of_gpt2_smalls_shape_stays_small():
    engine = gptviz.load("untrained", device="cpu")
    for n_tokens, megabytes in ((64, 10), (1024, 120)):
        trace = engine.run(engine.tokenizer.tokens(range(1000, 1000 + n_tokens)))
        for layer in range(12):
            trace["pattern", layer], trace["post", layer]
        held = sum(array.nbytes for array in trace._stream) + trace._last_logits.nbytes + trace._derived.size
        assert held <= trace.max_bytes <= megabytes * 1e6
