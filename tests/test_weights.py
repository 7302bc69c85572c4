import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY, gpt2_config, gpt2_tensors, tiny_model, write_folder

import gptviz
from gptviz import ConfigError, Engine, WeightsError
from gptviz.catalog import MODELS, STORY_GPT
from gptviz.weights import load_model, untrained_model

TEXT = "Once upon a time"


@pytest.fixture(scope="module")
def untied():
    return tiny_model(seed=5)


@pytest.fixture(scope="module")
def tied():
    return tiny_model(seed=6, tied_head=True)


def logits_of(model):
    return model(torch.tensor([[7454, 2402, 257, 640]]))


def assert_same_model(path, expected, **switches):
    engine = gptviz.load(path, device="cpu", **switches)
    np.testing.assert_allclose(engine.run(TEXT)["logits"], logits_of(expected)[0].numpy(), atol=1e-5, rtol=1e-5)
    return engine


def course_tensors(model, *, masks=False):
    tensors = dict(model.state_dict())
    if masks:
        for layer in range(len(model.trf_blocks)):
            tensors[f"trf_blocks.{layer}.att.mask"] = torch.triu(torch.ones(32, 32), diagonal=1)
    return tensors


# --- folders in Hugging Face form ------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.parametrize("tied_head", [False, True])
def test_a_folder_loads_in_every_form_that_is_about(tmp_path, request, prefix, buffers, tied_head):
    model = request.getfixturevalue("tied" if tied_head else "untied")
    tensors = gpt2_tensors(model, prefix)
    if buffers:
        for layer in range(3):
            tensors[f"{prefix}h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
            tensors[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    engine = assert_same_model(write_folder(tmp_path, tensors, gpt2_config(tied_head=tied_head)), model)
    assert engine.tied_head == tied_head
    assert engine.config == TINY
    assert engine.notes == ()


def test_a_sharded_folder_loads(tmp_path, untied):
    tensors = gpt2_tensors(untied, "transformer.")
    names = sorted(tensors)
    shards = {f"model-0000{at}-of-00003.safetensors": names[at - 1 :: 3] for at in (1, 2, 3)}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, tmp_path / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps(gpt2_config()))
    assert_same_model(tmp_path, untied)

    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"^model-00002-of-00003\.safetensors is missing or cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"wte.weight": "../secret.safetensors"}},
        {"weight_map": {"wte.weight": "/tmp/secret.safetensors"}},
        {"weight_map": {"wte.weight": "sub/model.safetensors"}},
        {"weight_map": {"wte.weight": ".."}},
        {"weight_map": {"wte.weight": 3}},
        {"weight_map": {"wte.weight": ["model.safetensors"]}},
        {"weight_map": ["model.safetensors"]},
        {"weight_map": {}},
        {},
    ],
)
def test_an_index_that_does_not_name_files_of_its_folder_is_refused(tmp_path, untied, index):
    save_file(gpt2_tensors(untied), tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(gpt2_config()))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="lists no weight files of this folder"):
        load_model(folder)


def test_a_folder_without_weights_or_with_a_broken_config_is_a_sentence(tmp_path, untied):
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        load_model(tmp_path)
    write_folder(tmp_path, gpt2_tensors(untied), {})
    for broken in ("{", "[1]", ""):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(WeightsError, match=r"config\.json"):
            load_model(tmp_path)


def test_half_precision_is_computed_in_float32(tmp_path, untied):
    tensors = {name: tensor.half() for name, tensor in gpt2_tensors(untied).items()}
    model, _ = load_model(write_folder(tmp_path, tensors, gpt2_config()))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(logits_of(model), logits_of(untied), atol=0.2, rtol=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "This is a 'llama' model, and gptviz shows GPT-2"),
        ({"activation_function": "relu"}, "activation_function = 'relu', which GPT-2 does not"),
        ({"activation_function": "gelu"}, "activation_function = 'gelu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06"),
        ({"scale_attn_weights": False}, "scale_attn_weights = False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
        ({"n_inner": 100}, "n_inner = 100"),
        ({"n_head": 5}, r"emb_dim \(16\) is not divisible by n_heads \(5\)"),
        ({"n_layer": 0}, "n_layers is 0"),
        ({"n_embd": "16"}, "emb_dim is '16'"),
    ],
)
def test_a_config_that_is_not_gpt2s_is_refused(tmp_path, untied, changes, message):
    with pytest.raises(WeightsError, match=message):
        load_model(write_folder(tmp_path, gpt2_tensors(untied), gpt2_config(**changes)))


def test_a_config_that_lacks_a_number_names_it(tmp_path, untied):
    config = gpt2_config()
    del config["n_head"]
    folder = write_folder(tmp_path, gpt2_tensors(untied), config)
    with pytest.raises(WeightsError, match=r"config\.json lacks n_head: add it there, or add it to the path"):
        load_model(folder)
    assert assert_same_model(f"{folder}?n_heads=4", untied).config == TINY


def test_sizes_that_a_config_lacks_are_the_tensors(tmp_path, untied):
    config = gpt2_config()
    for name in ("n_positions", "vocab_size", "n_embd", "n_layer", "model_type"):
        del config[name]
    assert assert_same_model(write_folder(tmp_path, gpt2_tensors(untied), config), untied).config == TINY


@pytest.mark.parametrize("name", ["wpe.weight", "wte.weight"])
def test_a_size_that_neither_says_is_named(tmp_path, untied, name):
    config = without(gpt2_config(), {"wpe.weight": "n_positions", "wte.weight": "vocab_size"}[name])
    with pytest.raises(WeightsError, match=r"config\.json lacks (n_positions|vocab_size): save the model again"):
        load_model(write_folder(tmp_path, without(gpt2_tensors(untied), name), config))


def test_a_number_of_heads_other_than_the_folders_is_refused(tmp_path, untied):
    folder = write_folder(tmp_path, gpt2_tensors(untied), gpt2_config())
    assert load_model(folder, n_heads=4)[1].config["n_heads"] == 4
    with pytest.raises(WeightsError, match="has 4 heads by its own configuration, not 2: leave it out"):
        load_model(folder, n_heads=2)


# --- tensors that do not fit -----------------------------------------------------------------------


def without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: without(tensors, "h.1.ln_2.bias"), r"missing: trf_blocks\.1\.norm2\.shift"),
        (lambda tensors: without(tensors, "wte.weight"), r"missing: tok_emb\.weight"),
        (lambda tensors: without(tensors, "lm_head.weight"), r"missing: out_head\.weight"),
        (lambda tensors: without(tensors, "h.2.attn.c_attn.weight"), r"missing: trf_blocks\.2\.att\.W_key\.weight, "),
        (lambda tensors: tensors | {"score.weight": torch.ones(2, 16)}, r"score\.weight is none of GPT-2's"),
        (lambda tensors: tensors | {"h.0.attn.extra": torch.ones(2)}, r"h\.0\.attn\.extra is none of GPT-2's"),
        (lambda tensors: tensors | {"h.3.ln_1.bias": torch.ones(16)}, r"not GPT-2's: trf_blocks\.3\.norm1\.shift"),
        (
            lambda tensors: tensors | {"wpe.weight": torch.ones(31, 16)},
            r"wrongly shaped: pos_emb\.weight is \[31, 16\] instead of \[32, 16\]",
        ),
        (
            lambda tensors: tensors | {"h.0.mlp.c_fc.weight": torch.ones(64, 16)},
            r"trf_blocks\.0\.ff\.layers\.0\.weight is \[16, 64\] instead of \[64, 16\]",
        ),
        (lambda tensors: tensors | {"h.0.mlp.c_fc.weight": torch.ones(16)}, r"h\.0\.mlp\.c_fc\.weight"),
        (lambda tensors: tensors | {"h.0.attn.c_attn.weight": torch.ones(16, 4)}, r"h\.0\.attn\.c_attn\.weight"),
        (lambda tensors: tensors | {"h.0.attn.c_attn.weight": torch.ones(16, 50)}, r"h\.0\.attn\.c_attn\.weight"),
        (lambda tensors: tensors | {"h.0.attn.c_attn.bias": torch.tensor(1.0)}, r"h\.0\.attn\.c_attn\.bias"),
        (
            lambda tensors: tensors | {"h.0.attn.c_attn.weight": torch.ones(48, 18)},
            r"0\.att\.W_query\.weight is \[6, 48\] instead of \[16, 16\]",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, untied, change, message):
    with pytest.raises(WeightsError, match=message):
        load_model(write_folder(tmp_path, change(gpt2_tensors(untied)), gpt2_config()))


def test_many_missing_tensors_are_counted(tmp_path, untied):
    tensors = {name: tensor for name, tensor in gpt2_tensors(untied).items() if not name.startswith("h.1.")}
    with pytest.raises(WeightsError, match=r"missing: trf_blocks\.1\.att\.W_key\.bias, .* and 13 more"):
        load_model(write_folder(tmp_path, tensors, gpt2_config()))


# --- single safetensors files ----------------------------------------------------------------------


def test_a_safetensors_file_with_its_config_in_the_metadata_loads(tmp_path, untied):
    path = tmp_path / "mine.safetensors"
    save_file(course_tensors(untied), path, metadata={"config": json.dumps(TINY)})
    engine = assert_same_model(path, untied)
    assert engine.config == TINY
    assert engine.notes == ()


def test_a_safetensors_file_with_a_hugging_face_config_in_the_metadata_loads(tmp_path, untied):
    path = tmp_path / "mine.safetensors"
    save_file(gpt2_tensors(untied), path, metadata={"config": json.dumps(gpt2_config())})
    assert_same_model(path, untied)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_function", "relu"),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("layer_norm_epsilon", 1e-6),
        ("model_type", "llama"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "mine.pth"])
def test_the_config_beside_a_file_is_held_to_what_a_folders_is(tmp_path, untied, name, key, value):
    (save_file if name.endswith("safetensors") else torch.save)(gpt2_tensors(untied), tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps(gpt2_config()))
    assert assert_same_model(tmp_path / name, untied).config == TINY
    (tmp_path / "config.json").write_text(json.dumps(gpt2_config(**{key: value})))
    with pytest.raises(WeightsError, match=value if key == "model_type" else f"The model has {key} = "):
        load_model(tmp_path / name)


def test_the_config_beside_a_file_tells_the_heads(tmp_path):
    model = tiny_model(emb_dim=128, n_heads=4, n_layers=1, tied_head=True)
    folder = write_folder(tmp_path, gpt2_tensors(model), gpt2_config(tied_head=True, n_embd=128, n_layer=1))
    engine = gptviz.load(folder / "model.safetensors", device="cpu")
    np.testing.assert_allclose(engine.run(TEXT)["logits"], logits_of(model)[0], atol=1e-3)  # a wide model has long sums
    assert engine.config["n_heads"] == 4
    assert engine.notes == ()


def test_another_programs_config_beside_a_file_is_left_alone(tmp_path, untied):
    save_file(course_tensors(untied), tmp_path / "mine.safetensors", metadata={"config": json.dumps(TINY)})
    torch.save({"model_state_dict": course_tensors(untied), "config": dict(TINY)}, tmp_path / "mine.pth")
    for config in ({"editor": "vim"}, gpt2_config(model_type="llama")):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert_same_model(tmp_path / "mine.pth", untied)
        if "editor" in config:
            assert_same_model(tmp_path / "mine.safetensors", untied)


def test_a_folder_with_pytorchs_file_alone_loads(tmp_path, untied):
    torch.save(gpt2_tensors(untied, "transformer."), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(gpt2_config()))
    assert assert_same_model(tmp_path, untied).config == TINY


def test_a_safetensors_file_without_a_config_needs_its_heads(tmp_path, untied):
    path = tmp_path / "mine.safetensors"
    save_file(gpt2_tensors(untied), path)
    with pytest.raises(
        WeightsError, match=r"does not say how many heads it has: add it to the path, model\.pth\?n_heads=4, or load"
    ):
        load_model(path)
    assert assert_same_model(path, untied, n_heads=4).config == TINY


@pytest.mark.parametrize("config", ["{", "[]", "3", '"text"', '{"n_heads": "4"}', '{"n_heads": 4, "emb_dim": null}'])
def test_a_config_in_the_metadata_that_is_none_is_a_sentence(tmp_path, untied, config):
    path = tmp_path / "mine.safetensors"
    save_file(course_tensors(untied), path, metadata={"config": config})
    with pytest.raises(WeightsError):
        load_model(path)


def test_a_truncated_safetensors_file_is_a_sentence(tmp_path, untied):
    path = tmp_path / "mine.safetensors"
    save_file(course_tensors(untied), path)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 100, 4, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=r"mine\.safetensors cannot be read as safetensors"):
            load_model(path)


# --- checkpoints of the course ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_bare_state_dict_with_the_courses_masks_loads(tmp_path, untied, suffix):
    path = tmp_path / f"model{suffix}"
    torch.save(course_tensors(untied, masks=True), path)
    engine = assert_same_model(path, untied, n_heads=4)
    assert engine.config == TINY
    assert not engine.tied_head


def test_the_checkpoint_of_the_courses_fifth_chapter_loads(tmp_path, untied):
    trained = tiny_model(seed=5).requires_grad_(True)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.0)
    logits_of(trained).sum().backward()
    optimizer.step()
    path = tmp_path / "model_and_optimizer.pth"
    content = {"model_state_dict": course_tensors(trained, masks=True), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(content, path)
    assert_same_model(path, untied, n_heads=4)


@pytest.mark.parametrize("key", ["config", "cfg", "model_config"])
def test_a_config_beside_the_state_dict_tells_the_heads(tmp_path, untied, key):
    path = tmp_path / "model.pth"
    torch.save({"model_state_dict": course_tensors(untied), key: {**TINY, "drop_rate": 0.3}}, path)
    engine = assert_same_model(path, untied)
    assert engine.config == {**TINY, "drop_rate": 0.3}
    assert engine.notes == ()


def test_heads_are_taken_as_64_wide_and_a_note_says_so(tmp_path):
    model = tiny_model(emb_dim=128, n_heads=2, n_layers=1, qkv_bias=False)
    path = tmp_path / "model.pth"
    torch.save(course_tensors(model), path)
    engine = assert_same_model(path, model)
    assert engine.config["n_heads"] == 2
    assert engine.config["qkv_bias"] is False
    (note,) = engine.notes
    assert "2 were taken, with 64 dimensions each" in note

    assert note.startswith("The number of heads is a guess")
    assert engine.n_heads_guessed

    right = tiny_model(emb_dim=128, n_heads=4, n_layers=1, qkv_bias=False)
    right.load_state_dict(model.state_dict())
    for other in (
        assert_same_model(path, right, n_heads=4),
        assert_same_model(f"{path}?n_heads=4", right),
        engine.with_heads(4),
    ):
        assert other.config["n_heads"] == 4
        assert not other.n_heads_guessed
        assert other.notes == ()
        assert np.abs(other.run(TEXT)["logits"] - engine.run(TEXT)["logits"]).max() > 0.01
        np.testing.assert_allclose(other.run(TEXT)["logits"], logits_of(right)[0].numpy(), atol=1e-5, rtol=1e-5)


def test_another_number_of_heads_takes_no_memory_for_weights(tied):
    for model in (tied, tiny_model()):
        engine = Engine(model, TINY, device="cpu")
        other = engine.with_heads(2)
        assert other.tied_head == engine.tied_head
        for name in ("tok_emb.weight", "out_head.weight", "trf_blocks.1.att.W_query.weight"):
            assert np.shares_memory(other.weights[name], engine.weights[name])
        with pytest.raises(ConfigError, match="not divisible by n_heads"):
            engine.with_heads(3)


@pytest.mark.parametrize(
    "options",
    [
        "heads=4",
        "n_heads=0",
        "n_heads=-1",
        "n_heads=4.0",
        "n_heads=",
        "n_heads=" + "9" * 5000,
        "n_heads=٤",
        "lora_scale=nan",
        "lora_scale=1e9",
        "n_heads=4&x=1",
    ],
)
def test_an_option_behind_a_path_that_is_none_is_a_sentence(tmp_path, untied, options):
    torch.save(course_tensors(untied), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="behind a path is no option: write n_heads=4") as caught:
        gptviz.load(f"{tmp_path}/model.pth?{options}")
    assert len(str(caught.value)) < 300


def test_a_file_whose_own_name_looks_like_options_is_taken_by_its_name(tmp_path, untied):
    write_folder(tmp_path / "model?n_heads=2", gpt2_tensors(untied), gpt2_config())
    torch.save({"model_state_dict": course_tensors(untied), "config": dict(TINY)}, tmp_path / "why?.pth")
    for name in ("model?n_heads=2", "why?.pth"):
        assert assert_same_model(tmp_path / name, untied).config["n_heads"] == 4


def test_another_number_of_heads_than_the_model_has_is_refused(tmp_path):
    for name in ("story-gpt", "untrained"):
        with pytest.raises(WeightsError, match="heads by its own configuration, not 4: leave it out"):
            gptviz.load(name, n_heads=4)


def test_a_tied_tensor_that_was_saved_twice_is_one_again(tmp_path, tied):
    for name, tensors in {
        "shared": course_tensors(tied),
        "copied": {key: tensor.clone() for key, tensor in course_tensors(tied).items()},
        "left_out": without(course_tensors(tied), "out_head.weight"),
    }.items():
        path = tmp_path / f"{name}.pth"
        torch.save(tensors, path)
        engine = assert_same_model(path, tied, n_heads=4)
        assert engine.tied_head, name
        assert engine.n_parameters == sum(parameter.numel() for parameter in tied.parameters())


def test_a_block_that_the_config_promises_and_the_file_lacks_is_named(tmp_path, untied):
    tensors = {name: tensor for name, tensor in course_tensors(untied).items() if not name.startswith("trf_blocks.2.")}
    path = tmp_path / "model.pth"
    torch.save({"model_state_dict": tensors, "config": dict(TINY)}, path)
    with pytest.raises(WeightsError, match=r"missing: trf_blocks\.2\.att"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_length": 1024}, r"pos_emb\.weight is \[32, 16\] instead of \[1024, 16\]"),
        ({"qkv_bias": False}, r"not GPT-2's: trf_blocks\.0\.att\.W_key\.bias"),
        ({"n_heads": 3}, "not divisible by n_heads"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(tmp_path, untied, changes, message):
    path = tmp_path / "model.pth"
    torch.save({"model_state_dict": course_tensors(untied), "config": {**TINY, **changes}}, path)
    with pytest.raises(WeightsError, match=message):
        load_model(path)


def test_a_missing_middle_block_is_named(tmp_path, untied):
    tensors = {name: tensor for name, tensor in course_tensors(untied).items() if not name.startswith("trf_blocks.1.")}
    path = tmp_path / "model.pth"
    torch.save(tensors, path)
    with pytest.raises(WeightsError, match=r"missing: trf_blocks\.1\."):
        load_model(path, n_heads=4)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"weights": 3}, {}, {0: torch.ones(2)}, {"model_state_dict": {"tok_emb.weight": 1}}, torch.ones(3)],
)
def test_a_checkpoint_without_a_state_dict_is_a_sentence(tmp_path, content):
    path = tmp_path / "model.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"holds no state dict|no checkpoint of the course"):
        load_model(path)


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, untied):
    ran = tmp_path / "ran"
    for name, save in {"torch": torch.save, "plain": plain_pickle}.items():
        path = tmp_path / f"{name}.pth"
        save({**course_tensors(untied), "extra": RunsCode(ran)}, path)
        with pytest.raises(WeightsError, match=f"{name}.pth holds more than tensors, and reading it could run code"):
            load_model(path)
        assert not ran.exists()


def plain_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 half an archive"])
def test_a_damaged_checkpoint_is_a_sentence(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.pth"):
        load_model(path)


def test_a_truncated_checkpoint_is_a_sentence(tmp_path, untied):
    path = tmp_path / "model.pth"
    torch.save(course_tensors(untied), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"model\.pth cannot be read as a PyTorch checkpoint"):
        load_model(path)


# --- checkpoints packed by other programs ------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model."])
@pytest.mark.parametrize("key", [None, "model_state_dict", "state_dict", "model"])
def test_what_wraps_a_model_comes_off(tmp_path, untied, prefix, key):
    path = tmp_path / "model.pth"
    tensors = {prefix + name: tensor for name, tensor in course_tensors(untied, masks=True).items()}
    torch.save({key: tensors, "epoch": 3, "losses": [1.5, 1.25]} if key else tensors, path)
    engine = assert_same_model(path, untied, n_heads=4)
    assert engine.config == TINY


@pytest.mark.parametrize("prefix", ["module.transformer.", "_orig_mod.transformer.", "model.transformer."])
def test_what_wraps_transformers_model_comes_off(tmp_path, untied, prefix):
    path = tmp_path / "model.pth"
    tensors = gpt2_tensors(untied, prefix)
    tensors[prefix.removesuffix("transformer.") + "lm_head.weight"] = tensors.pop("lm_head.weight")
    torch.save({"state_dict": tensors}, path)
    assert_same_model(path, untied, n_heads=4)


def test_blocks_that_were_compiled_one_by_one_load(tmp_path, untied):
    path = tmp_path / "model.pth"
    torch.save(
        {name.replace("trf_blocks.1.", "trf_blocks.1._orig_mod."): t for name, t in course_tensors(untied).items()},
        path,
    )
    assert_same_model(path, untied, n_heads=4)


def test_two_models_in_one_state_dict_are_refused(tmp_path, untied):
    path = tmp_path / "model.pth"
    wrapped = {f"module.{name}": tensor for name, tensor in course_tensors(untied).items()}
    torch.save(course_tensors(untied) | wrapped, path)
    with pytest.raises(WeightsError, match=r"two tensors that are tok_emb\.weight without what wraps the model"):
        load_model(path, n_heads=4)
    torch.save({"model": course_tensors(untied), "state_dict": course_tensors(untied)}, path)
    with pytest.raises(WeightsError, match=r"holds several state dicts, state_dict, model: save one of them"):
        load_model(path, n_heads=4)


class LinearWithLoRA(torch.nn.Module):
    """A LoRA layer as in appendix E of the course."""

    def __init__(self, linear, rank, scale):
        super().__init__()
        self.linear, self.scale = linear, scale
        self.lora = torch.nn.Module()
        self.lora.A = torch.nn.Parameter(torch.randn(linear.in_features, rank) * 0.3)
        self.lora.B = torch.nn.Parameter(torch.randn(rank, linear.out_features) * 0.3)

    @property
    def weight(self):
        return self.linear.weight

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.lora.A @ self.lora.B)


def put_lora(module, rank, scale):
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Linear):
            setattr(module, name, LinearWithLoRA(child, rank, scale))
        else:
            put_lora(child, rank, scale)
    return module


@pytest.fixture
def lora(tmp_path):
    torch.manual_seed(0)
    model = put_lora(tiny_model(seed=5), rank=2, scale=0.5).requires_grad_(False)
    torch.save(model.state_dict(), tmp_path / "lora.pth")
    return model, tmp_path / "lora.pth"


def test_lora_is_merged_with_the_factor_that_is_given(lora):
    model, path = lora
    engine = assert_same_model(path, model, n_heads=4, lora_scale=0.5)
    assert_same_model(f"{path}?n_heads=4&lora_scale=0.5", model)
    other = gptviz.load(f"{path}?n_heads=4&lora_scale=1", device="cpu")
    assert np.abs(other.run(TEXT)["logits"] - engine.run(TEXT)["logits"]).max() > 0.01


def test_lora_without_its_factor_is_refused(lora):
    _, path = lora
    said = r"LoRA layers \(of rank 2\), and does not say by what they are multiplied: .* model\.pth\?lora_scale=1, with"
    with pytest.raises(WeightsError, match=said):
        gptviz.load(path, n_heads=4)


def test_a_factor_for_a_model_without_lora_is_refused(tmp_path, untied):
    path = tmp_path / "model.pth"
    torch.save(course_tensors(untied), path)
    with pytest.raises(WeightsError, match="has no LoRA layers: leave lora_scale out"):
        gptviz.load(path, n_heads=4, lora_scale=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: without(tensors, "trf_blocks.1.att.W_key.lora.B"),
        lambda tensors: without(tensors, "trf_blocks.1.att.W_key.linear.weight"),
        lambda tensors: tensors | {"trf_blocks.1.att.W_key.lora.B": torch.ones(3, 16)},
        lambda tensors: tensors | {"trf_blocks.1.att.W_key.lora.B": torch.ones(2, 15)},
        lambda tensors: tensors | {"trf_blocks.1.att.W_key.lora.A": torch.ones(2)},
    ],
)
def test_a_broken_lora_layer_is_named(lora, change):
    model, path = lora
    torch.save(change(model.state_dict()), path)
    with pytest.raises(WeightsError, match=r"^The LoRA layer trf_blocks\.1\.att\.W_key "):
        load_model(path, n_heads=4, lora_scale=0.5)
    torch.save(without(model.state_dict(), "trf_blocks.1.att.W_key.lora.A"), path)
    with pytest.raises(WeightsError, match=r"trf_blocks\.1\.att\.W_key\.linear\.weight"):
        load_model(path, n_heads=4, lora_scale=0.5)


def trunk_of(model):
    """Return a model with the same blocks, and the token embedding as its output head."""
    trunk = tiny_model(tied_head=True)
    trunk.load_state_dict(without(course_tensors(model), "out_head.weight"), strict=False)
    return trunk


def test_a_classifier_of_the_courses_sixth_chapter_shows_its_trunk_and_says_so(tmp_path, untied):
    path = tmp_path / "review_classifier.pth"
    torch.save(course_tensors(untied) | {"out_head.weight": torch.ones(2, 16), "out_head.bias": torch.ones(2)}, path)
    engine = assert_same_model(path, trunk_of(untied), n_heads=4)
    assert engine.tied_head
    (note,) = engine.notes
    assert note.startswith("This is a classifier with 2 classes")
    assert "the token embedding is taken for one" in note


def test_a_classifier_with_lora_loads_too(tmp_path):
    torch.manual_seed(0)
    model = tiny_model(seed=5)
    model.out_head = torch.nn.Linear(16, 2)
    put_lora(model, rank=2, scale=0.5).requires_grad_(False)
    torch.save(model.state_dict(), tmp_path / "lora.pth")
    engine = gptviz.load(tmp_path / "lora.pth", n_heads=4, lora_scale=0.5, device="cpu")
    ids = torch.tensor([engine.tokenize(TEXT).ids])
    np.testing.assert_allclose(engine.run(TEXT)["final_norm_out"], model.final_norm(model.stream(ids))[0], atol=1e-4)
    assert any("a classifier with 2 classes" in note for note in engine.notes)


@pytest.mark.parametrize("head", ["score", "classifier"])
def test_transformers_classifiers_show_their_trunk_and_say_so(tmp_path, untied, head):
    tensors = without(gpt2_tensors(untied, "transformer."), "lm_head.weight") | {f"{head}.weight": torch.ones(3, 16)}
    folder = write_folder(tmp_path, tensors, gpt2_config(architectures=["GPT2ForSequenceClassification"]))
    engine = assert_same_model(folder, trunk_of(untied))
    (note,) = engine.notes
    assert note.startswith("This is a classifier with 3 classes")


def test_a_head_that_is_just_too_small_is_no_classifiers(tmp_path, untied):
    path = tmp_path / "model.pth"
    torch.save(course_tensors(untied) | {"out_head.weight": torch.ones(50256, 16)}, path)
    with pytest.raises(WeightsError, match=r"out_head\.weight is \[50256, 16\] instead of \[50257, 16\]"):
        load_model(path, n_heads=4)


def test_nanogpts_matrices_are_named_as_such(tmp_path, untied):
    tensors = {
        f"_orig_mod.transformer.{name}": tensor.T.contiguous() if ".c_" in name and tensor.dim() == 2 else tensor
        for name, tensor in without(gpt2_tensors(untied), "lm_head.weight").items()
    }
    path = tmp_path / "ckpt.pt"
    args = {"n_layer": 3, "n_head": 4, "n_embd": 16, "block_size": 32, "bias": True, "vocab_size": 50257}
    torch.save({"model": tensors, "model_args": args, "iter_num": 1}, path)
    with pytest.raises(
        WeightsError, match=r"c_attn\.weight is turned, \[48, 16\], as nanoGPT writes it; .* exact GELU"
    ):
        load_model(path)


# --- output heads that do not match the config ------------------------------------------------------


@pytest.mark.parametrize("names", ["gpt2's", "the course's"])
def test_a_head_of_its_own_is_kept_although_the_config_says_tied_and_a_note_says_so(tmp_path, untied, names):
    tensors = gpt2_tensors(untied) if names == "gpt2's" else course_tensors(untied)
    engine = assert_same_model(write_folder(tmp_path, tensors, gpt2_config(tied_head=True)), untied)
    assert not engine.tied_head
    (note,) = engine.notes
    assert note.startswith("config.json says that the output head is the token embedding, and the file holds another")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_head_that_is_the_token_embedding_is_one_tensor_without_a_note(tmp_path, tied, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in gpt2_tensors(tied).items()}
    tensors["lm_head.weight"] = tensors["wte.weight"].float().clone()
    engine = gptviz.load(write_folder(tmp_path, tensors, gpt2_config(tied_head=True)), device="cpu")
    assert engine.tied_head
    assert engine.notes == ()


# --- paths and names -------------------------------------------------------------------------------


def test_a_file_of_another_kind_and_a_path_to_nothing_are_sentences(tmp_path):
    with pytest.raises(WeightsError, match="is no known model and no path: known are story-gpt, gpt2,"):
        gptviz.load(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match="There is no file or folder"):
        load_model(tmp_path / "nothing.pth")
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"model\.gguf is no model file: give a folder, \.safetensors, \.pth, \.pt"):
        gptviz.load(tmp_path / "model.gguf")


def test_the_bundled_model_loads_by_name_folder_and_file_alike(story):
    for path in (STORY_GPT, str(STORY_GPT), STORY_GPT / "model.safetensors"):
        engine = gptviz.load(path, device="cpu")
        assert engine.config == story.config
        assert engine.notes == ()
        assert np.array_equal(engine.run(TEXT).logits_at(-1), story.run(TEXT).logits_at(-1))


def test_an_untrained_model_is_the_same_for_the_same_seed():
    models = [untrained_model({**TINY}, seed) for seed in (1, 1, 2)]
    state = [model.state_dict() for model in models]
    assert all(torch.equal(state[0][name], state[1][name]) for name in state[0])
    assert not torch.equal(state[0]["tok_emb.weight"], state[2]["tok_emb.weight"])


def test_an_untrained_model_is_initialised_as_gpt2_was():
    model = untrained_model(TINY, 0)
    deviations = {name: parameter.std().item() for name, parameter in model.named_parameters() if parameter.dim() == 2}
    for name, deviation in deviations.items():
        into_stream = name.endswith(("out_proj.weight", "ff.layers.2.weight"))
        assert deviation == pytest.approx(0.02 / 6**0.5 if into_stream else 0.02, rel=0.15), name
    assert model.tied_head
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith(("bias", "shift")))
    assert all((p == 1).all() for name, p in model.named_parameters() if name.endswith("scale"))


# --- memory ----------------------------------------------------------------------------------------

MEASURE = """
import re, sys
from pathlib import Path
import torch, tiktoken, safetensors, gptviz.tokens
torch.ones(8, 8) @ torch.ones(8, 8)
gptviz.tokens.gpt2_tokenizer().encode("warm")
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
engine = gptviz.load(sys.argv[1], device="cpu")
trace = engine.run(engine.tokenizer.tokens(range(1000, 1016)))
assert trace.logits_at(-1).shape == (50257,)
print(before, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_loading_gpt2_small_takes_little_more_than_its_weights(tmp_path, prefix, capsys):
    config = MODELS["gpt2"].config
    tensors = gpt2_tensors(tiny_model(tied_head=True, **config), prefix)
    names = {"n_embd": "emb_dim", "n_head": "n_heads", "n_layer": "n_layers", "n_positions": "context_length"}
    folder = write_folder(
        tmp_path, tensors, gpt2_config(tied_head=True, **{theirs: config[ours] for theirs, ours in names.items()})
    )
    weights = sum(tensor.nbytes for tensor in tensors.values())
    assert weights == MODELS["gpt2"].n_bytes
    del tensors
    root = str(Path(gptviz.__file__).parents[1])
    before, after = map(
        int,
        subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder)],
            env=os.environ | {"PYTHONPATH": root},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split(),
    )
    ratio = (after - before) / weights
    with capsys.disabled():
        print(f"\npeak memory over the baseline: {ratio:.3f} times the weights ({weights / 1e6:.0f} MB)")
    assert ratio <= 1.3
