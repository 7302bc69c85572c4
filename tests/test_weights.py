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
from gptviz import WeightsError
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


def test_a_number_of_heads_other_than_the_folders_is_refused(tmp_path, untied):
    folder = write_folder(tmp_path, gpt2_tensors(untied), gpt2_config())
    assert load_model(folder, n_heads=4)[1].config["n_heads"] == 4
    with pytest.raises(WeightsError, match="says that the model has 4 heads, not 2"):
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
        (
            lambda tensors: without(tensors, "h.2.attn.c_attn.weight"),
            r"missing: trf_blocks\.2\.att\.W_key\.weight, ",
        ),
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

    other = gptviz.load(path, device="cpu", n_heads=4)
    assert other.config["n_heads"] == 4
    assert other.notes == ()
    assert np.abs(other.run(TEXT)["logits"] - engine.run(TEXT)["logits"]).max() > 0.01


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
import torch, tiktoken, safetensors, gptviz
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
