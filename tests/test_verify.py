"""`verify` must fail for every fault put into the code, the memory or the file, for every model."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_hub import files, hub, model  # noqa: F401 - fixtures
from tiny import TINY, gpt2_config, gpt2_tensors, tiny_engine, tiny_model, write_folder
from torch.nn import functional as F

import gptviz
from gptviz import verify
from gptviz.catalog import MODELS
from gptviz.model import GELU, CausalSoftmax, GPTModel, KeyValueCache, LayerNorm, MultiHeadAttention

MODELS_TO_VERIFY = ["story-gpt", "folder", "course checkpoint"]


def load(kind, tmp_path):
    """Return a fresh engine, whose weights a test may change."""
    if kind == "folder":
        path = write_folder(tmp_path / "folder", gpt2_tensors(tiny_model()), gpt2_config())
    elif kind == "course checkpoint":
        path = tmp_path / "model.pth"
        torch.save({"model_state_dict": tiny_model(seed=2).state_dict(), "config": dict(TINY)}, path)
    else:
        path = kind
    return gptviz.load(path, device="cpu")


@pytest.fixture(params=MODELS_TO_VERIFY)
def engine(request, tmp_path):
    return load(request.param, tmp_path)


def failed(engine):
    return [check.name for check in verify.checks(engine) if check.passed is False]


def test_a_sound_model_passes(engine):
    found = verify.checks(engine)
    assert [check for check in found if check.passed is False] == []
    assert sum(check.passed is True for check in found) >= 24
    unknown = [check.name for check in found if check.passed is None]
    assert unknown == ([] if engine.name == "story-gpt" else ["the file itself"])


SHAPES = [{"n_heads": 1}, {"qkv_bias": False}, {"context_length": 3}, {"n_layers": 1}, {"emb_dim": 64}]


@pytest.mark.parametrize("seed", range(len(SHAPES)))
def test_sound_models_of_other_shapes_pass(seed):
    found = verify.checks(tiny_engine(seed, **SHAPES[seed]))
    assert [check for check in found if check.passed is False] == []
    assert [check.name for check in found if check.passed is None] == ["the weights"]


# --- faults in the code ------------------------------------------------------------------------


def unbiased(self, x):
    return self.scale * (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + self.eps).sqrt() + self.shift


def mask(diagonal):
    def masked(_self, scores):
        n_query, n_key = scores.shape[-2:]
        future = torch.full((n_query, n_key), -torch.inf).triu(diagonal=diagonal + n_key - n_query)
        return torch.softmax(scores + future, dim=-1)

    return masked


def unscaled(self, q, k, v):
    return self.dropout(self.causal_softmax(q @ k.transpose(-2, -1))) @ v


def backwards(self, ids, caches=None):
    x = self.embed(ids, start=len(caches[0]) if caches else 0)
    for layer in reversed(range(len(self.trf_blocks))):
        x = self.trf_blocks[layer](x, caches[layer] if caches else None)
    return x


def first_and_second_exchanged(self, ids, caches=None):
    x = self.embed(ids, start=len(caches[0]) if caches else 0)
    for layer in [1, 0, *range(2, len(self.trf_blocks))]:
        x = self.trf_blocks[layer](x, caches[layer] if caches else None)
    return x


def forgetting(self, keys, values):
    EXTEND(self, keys, values)
    older = torch.zeros_like(self.values[:, :, : -values.shape[2]])
    return self.keys, torch.cat((older, values), dim=2)


EMBED, EXTEND = GPTModel.embed, KeyValueCache.extend
FUSED = F.scaled_dot_product_attention
# fault -> (object, attribute name, replacement)
FAULTS_IN_CODE = {
    "ReLU": (GELU, "forward", lambda _self, x: torch.relu(x)),
    "exact GELU": (GELU, "forward", lambda _self, x: F.gelu(x)),
    "sigmoid GELU": (GELU, "forward", lambda _self, x: x * torch.sigmoid(1.702 * x)),
    "eps 1e-6": (LayerNorm, "eps", 1e-6),
    "eps 1e-12": (LayerNorm, "eps", 1e-12),
    "eps 2e-5": (LayerNorm, "eps", 2e-5),
    "unbiased variance": (LayerNorm, "forward", unbiased),
    "no mean taken off": (LayerNorm, "forward", lambda self, x: F.rms_norm(x, x.shape[-1:], self.scale) + self.shift),
    "a mask that hides the token itself": (CausalSoftmax, "forward", mask(0)),
    "a mask that shows the next token": (CausalSoftmax, "forward", mask(2)),
    "no scale": (MultiHeadAttention, "_gather", unscaled),
    "no scale in the fused kernel": (F, "scaled_dot_product_attention", lambda *a, **how: FUSED(*a, **how, scale=1.0)),
    "no mask in the fused kernel": (F, "scaled_dot_product_attention", lambda q, k, v, is_causal: FUSED(q, k, v)),
    "blocks backwards": (GPTModel, "stream", backwards),
    "two blocks exchanged": (GPTModel, "stream", first_and_second_exchanged),
    "positions from 1": (GPTModel, "embed", lambda self, ids, start=0: EMBED(self, ids, start + 1)),
    "positions that do not go on": (GPTModel, "embed", lambda self, ids, start=0: EMBED(self, ids)),
    "a cache that forgets": (KeyValueCache, "extend", forgetting),
}


@pytest.mark.parametrize("fault", FAULTS_IN_CODE)
def test_a_fault_in_the_code_fails(engine, monkeypatch, fault):
    place, name, instead = FAULTS_IN_CODE[fault]
    monkeypatch.setattr(place, name, instead)
    assert failed(engine)


@pytest.mark.parametrize("norm", ["trf_blocks.0.norm1", "trf_blocks.2.norm2", "final_norm"])
def test_another_eps_in_one_norm_alone_fails(engine, norm):
    engine._model.get_submodule(norm).eps = 1e-6
    assert failed(engine)


def test_dropout_that_is_left_on_fails(engine):
    engine._model.train()
    assert failed(engine)


# --- faults in memory and in files -------------------------------------------------------------


def flip(name, index=(3, 5)):
    def change(model):
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.clone()
        parameter.data[index[: parameter.dim()]] *= -1

    return change


def exchange_blocks(model):
    model.trf_blocks = torch.nn.ModuleList([model.trf_blocks[1], model.trf_blocks[0], *model.trf_blocks[2:]])


def exchange_query_and_key(model):
    attention = model.trf_blocks[1].att
    attention.W_query, attention.W_key = attention.W_key, attention.W_query


def untie(model):
    model.out_head.weight = torch.nn.Parameter(model.out_head.weight.detach() * 1.001, requires_grad=False)


FAULTS_IN_MEMORY = {
    "a flipped sign in W_query": flip("trf_blocks.0.att.W_query.weight"),
    "a flipped sign in a bias": flip("trf_blocks.2.ff.layers.0.bias"),
    "a flipped sign in an embedding": flip("tok_emb.weight", (40_000, 3)),
    "exchanged blocks": exchange_blocks,
    "exchanged query and key": exchange_query_and_key,
    "another head": untie,
}


@pytest.mark.parametrize("fault", FAULTS_IN_MEMORY)
def test_weights_that_differ_from_the_file_fail(engine, fault):
    FAULTS_IN_MEMORY[fault](engine._model)
    assert "the weights in memory are the file's" in failed(engine)


@pytest.mark.parametrize("kind", ["folder", "course checkpoint"])
def test_a_file_that_was_written_anew_fails(tmp_path, kind):
    engine = load(kind, tmp_path)
    changed = tiny_model(seed=7)
    if kind == "folder":
        write_folder(tmp_path / "folder", gpt2_tensors(changed), gpt2_config())
    else:
        torch.save({"model_state_dict": changed.state_dict(), "config": dict(TINY)}, engine.path)
    assert failed(engine) == ["the weights in memory are the file's"]
    shutil.rmtree(tmp_path / "folder", ignore_errors=True)
    (tmp_path / "model.pth").unlink(missing_ok=True)
    (check,) = [check for check in verify.checks(engine) if check.passed is False]
    assert "cannot be read a second time" in check.figure


def change_one_byte(path, at=-3):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_changed_bundled_file_fails(tmp_path, monkeypatch):
    folder = tmp_path / "story-gpt"
    shutil.copytree(MODELS["story-gpt"].folder, folder)
    monkeypatch.setitem(MODELS, "story-gpt", replace(MODELS["story-gpt"], folder=folder))
    assert failed(gptviz.load("story-gpt", device="cpu")) == []
    change_one_byte(folder / "model.safetensors")
    assert failed(gptviz.load("story-gpt", device="cpu")) == ["the checksum of model.safetensors"]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_changed_file_of_the_hub_fails(hub, file):
    engine = gptviz.load("gpt2", device="cpu")
    sums = [f"the checksum of {name}" for name in ("config.json", "model.safetensors")]
    found = {check.name: check.passed for check in verify.checks(engine)}
    assert [found[name] for name in sums] == [True, True]
    path = (engine.path / file).resolve()
    if file == "config.json":
        path.write_text(path.read_text() + " ")
    else:
        change_one_byte(path)
    assert f"the checksum of {file}" in failed(engine)


def test_a_folder_that_the_hubs_client_filled_is_vouched_for(tmp_path):
    folder = write_folder(tmp_path, gpt2_tensors(tiny_model()), gpt2_config())
    beside = folder / ".cache" / "huggingface" / "download"
    beside.mkdir(parents=True)
    known = verify.checksum_of(folder / "model.safetensors", 64)
    (beside / "model.safetensors.metadata").write_text(f"{'0' * 40}\n{known}\n1700000000.0\n")
    engine = gptviz.load(folder, device="cpu")
    found = {check.name: check.passed for check in verify.checks(engine)}
    assert found["the checksum of model.safetensors"] is True
    assert None not in found.values()
    change_one_byte(folder / "model.safetensors")
    assert "the checksum of model.safetensors" in failed(engine)


def test_numbers_that_are_none_fail_without_an_exception(engine):
    engine._model.trf_blocks[1].ff.layers[2].weight.data = torch.full_like(
        engine._model.trf_blocks[1].ff.layers[2].weight, torch.nan
    )
    assert {"Second linear layer", "every logit is a number"} <= set(failed(engine))


def test_the_recomputation_knows_nothing_of_the_model(tiny, monkeypatch):
    """It gets only the model's numbers, and calls none of its code."""
    trace = tiny.run(verify.TEXT[:20], keep=gptviz.ACTIVATIONS)
    weights = tiny.weights
    trace.engine = SimpleNamespace(weights=weights, config=tiny.config)
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("calls the model"))
        for step in verify.arithmetic.STEPS.values():
            for layer in range(3) if step.in_block else [None]:
                assert np.isfinite(verify.arithmetic.check(trace, step, layer).share)
