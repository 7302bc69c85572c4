"""Any file: what is damaged, hostile or absurd is one sentence, runs no code, and takes no memory.

Names, shapes and truncations of well-meant files stand in test_weights.py.
"""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from tiny import TINY, gpt2_config, gpt2_tensors, tiny_model, write_folder

import gptviz
from gptviz import WeightsError

ROOT = Path(__file__).parents[1]


def refused(path):
    """The sentence with which the file is refused."""
    with pytest.raises(WeightsError) as caught:
        gptviz.load(path, device="cpu")
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    return said


def course_file(path, **changes):
    torch.save({"model_state_dict": tiny_model().state_dict() | changes, "config": dict(TINY)}, path)
    return path


@pytest.fixture
def memory(monkeypatch):
    """Say how much is free."""

    def free(n_bytes):
        memory = psutil.virtual_memory()._replace(available=n_bytes)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

    return free


# --- absurd sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layer": 10**6},
        {"n_layer": 10**12},
        {"n_embd": 4 * 10**5},
        {"n_positions": 10**9},
        {"vocab_size": 10**9},
        {"vocab_size": 10**4000},
        {"n_embd": 10**12, "n_head": 10**12},
        {"n_layer": 10**9, "n_embd": 10**9, "vocab_size": 10**9},
    ],
    ids=str,
)
def test_a_small_file_whose_config_asks_for_anything_is_refused_before_it_is_built(tmp_path, changes):
    said = refused(write_folder(tmp_path, gpt2_tensors(tiny_model()), gpt2_config(**changes)))
    assert "and the file holds" in said or "larger than any model's" in said


@pytest.mark.parametrize("key", ["n_layers", "emb_dim", "context_length", "vocab_size"])
def test_the_same_of_a_config_beside_a_courses_state_dict(tmp_path, key):
    path = tmp_path / "model.pth"
    torch.save({"model_state_dict": tiny_model().state_dict(), "config": {**TINY, key: 4 * 10**8}}, path)
    assert "and the file holds" in refused(path)


def test_a_tensor_that_claims_more_than_is_stored_is_refused(tmp_path):
    for number in (torch.zeros(1), torch.zeros(1, dtype=torch.float64)):
        path = course_file(tmp_path / "model.pth", **{"out_head.weight": number.expand(10**6, 10**6)})
        assert path.stat().st_size < 10_000_000
        assert refused(path).startswith("The tensor out_head.weight claims more numbers than the file holds")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_every_kind_of_floating_point_is_read_as_float32(tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in tiny_model().state_dict().items()}
    engine = gptviz.load(course_file(tmp_path / "model.pth", **state), device="cpu")
    assert engine.weight("final_norm.scale").tolist() == state["final_norm.scale"].float().tolist()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(50257, 16, dtype=torch.int8),
        torch.ones(50257, 16, dtype=torch.complex64),
        torch.ones(50257, 16).to_sparse(),
        torch.ones(50257, 16, device="meta"),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tensor.layout} {tensor.device}",
)
def test_tensors_of_another_kind_are_refused(tmp_path, tensor):
    said = refused(course_file(tmp_path / "model.pth", **{"tok_emb.weight": tensor}))
    assert said.startswith("The tensor tok_emb.weight does not hold plain floating-point numbers")


# --- memory -----------------------------------------------------------------------------------------


def test_what_does_not_fit_into_memory_is_not_begun(tmp_path, memory):
    checkpoints = [course_file(tmp_path / "model.pth"), write_folder(tmp_path / "f", gpt2_tensors(tiny_model()), {})]
    memory(1_000_000)
    for path in checkpoints:
        said = refused(path)
        assert said.startswith("This model needs 0.0 GB of memory, and 0.0 GB are free: choose a smaller one")
    assert "needs 0.5 GB of memory" in refused("untrained")


def test_half_precision_asks_for_the_room_that_it_takes_as_float32(tmp_path, memory):
    path = tmp_path / "model.pth"
    halves = {name: tensor.half() for name, tensor in tiny_model().state_dict().items()}
    torch.save({"model_state_dict": halves, "config": dict(TINY)}, path)
    gptviz.load(path, device="cpu")
    memory(path.stat().st_size + 1000)  # enough to read it, not to widen it
    assert "of memory" in refused(path)


def test_the_parts_of_a_model_are_summed(tmp_path, memory):
    tensors = gpt2_tensors(tiny_model())
    folder = write_folder(tmp_path, {}, gpt2_config())
    (folder / "model.safetensors").unlink()
    names = [f"part-{number}.safetensors" for number in range(len(tensors))]
    for name, key in zip(names, tensors, strict=True):
        save_file({key: tensors[key]}, folder / name)
    weight_map = dict(zip(tensors, names, strict=True))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert gptviz.load(folder, device="cpu").config == TINY
    sizes = [(folder / name).stat().st_size for name in names]
    memory(max(sizes) + 1000)  # enough for each of them
    assert sum(sizes) > max(sizes) + 1000
    assert "of memory" in refused(folder)


# --- traps ------------------------------------------------------------------------------------------


def repacked(path, **how):
    """The checkpoint's archive, packed again with compression: small on disk, large in memory."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **how) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    torch.save({name: torch.zeros_like(tensor) for name, tensor in tiny_model().state_dict().items()}, path)
    repacked(path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    assert "would unpack to 6," in refused(path)


def test_an_archive_whose_entries_share_their_bytes_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/0", bytes(10_000))
        (entry,) = archive.infolist()
        archive.filelist += [entry] * 1000  # the directory names the same bytes again and again
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    assert "would unpack to 10,010,000" in refused(path)


class Runs:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("place", ["alone", "in a state dict", "as a key", "in the config"])
def test_code_in_a_pickle_does_not_run(tmp_path, protocol, place):
    ran = tmp_path / "ran"
    for trap in (
        Runs(os.mkdir, str(ran)),
        Runs(os.system, f"mkdir {ran}"),
        Runs(eval, f"__import__('os').mkdir('{ran}')"),
    ):
        content = {
            "alone": trap,
            "in a state dict": {"tok_emb.weight": trap},
            "as a key": {"model_state_dict": {}, "extra": (trap,)},
            "in the config": {"model_state_dict": {}, "config": trap},
        }[place]
        path = tmp_path / "model.pth"
        for zipped in (False, True):
            if zipped:
                torch.save(content, path, pickle_protocol=protocol)
            else:
                path.write_bytes(pickle.dumps(content, protocol))
            assert refused(path)
            assert not ran.exists()


# --- weights that are none --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["tok_emb.weight", "trf_blocks.2.ff.layers.2.bias", "final_norm.scale"])
def test_one_weight_that_is_no_number_is_a_sentence_that_names_it(tmp_path, name, value):
    state = tiny_model().state_dict()
    tensor = state[name].clone()
    tensor.view(-1)[-1] = value
    said = refused(course_file(tmp_path / "model.pth", **{name: tensor}))
    assert said.startswith(f"The weights are broken: 1 of the {tensor.numel():,} values of {name} are NaN or infinite.")


def test_large_finite_weights_are_no_error(tmp_path):
    scale = torch.full((16,), 3e38)
    assert gptviz.load(course_file(tmp_path / "model.pth", **{"final_norm.scale": scale}), device="cpu").n_parameters


# --- files that are none ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["missing", "loop", "endless", "in a file", "nul", "dots"])
def test_a_path_that_leads_nowhere_is_a_sentence(tmp_path, kind):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    path = {
        "missing": tmp_path / "no.pth",
        "loop": tmp_path / "loop.pth",
        "endless": "x" * 100_000,
        "in a file": tmp_path / "file" / "model.pth",
        "nul": "a\0b",
        "dots": "../" * 50 + "no.pth",
    }[kind]
    assert refused(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\0" * 100, b"[" * 100_000, b"\xff\xfe{}", b'{"model_type": "gpt2"}'])
def test_a_folder_with_a_part_that_is_none_is_a_sentence(tmp_path, name, content):
    folder = write_folder(tmp_path, gpt2_tensors(tiny_model()), gpt2_config())
    (folder / name).unlink()
    if content is None:
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(content)
    assert refused(folder)


def header_of(tensors, n_bytes=0):
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header + bytes(n_bytes)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        header_of({"wte.weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}),
        header_of({"wte.weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 8]}}, 8),
        header_of({"wte.weight": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        header_of({"wte.weight": {"dtype": "F32", "shape": [0, 10**12], "data_offsets": [0, 0]}}),
        header_of({"wte.weight": {"dtype": "F32", "shape": [-1, 2], "data_offsets": [0, 8]}}, 8),
        header_of({"__metadata__": {"config": "[" * 100_000}}),
        header_of({"x" * 300_000: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 8),
    ],
    ids=["header", "offsets", "shape", "overflow", "nothing wide", "negative", "nested", "name"],
)
def test_a_safetensors_file_that_lies_is_a_sentence(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert refused(path)


def test_what_a_file_says_of_itself_is_cut_in_the_sentence(tmp_path):
    for number, changes in enumerate(({"model_type": "x" * 10**6}, {"activation_function": "x" * 10**6})):
        refused(write_folder(tmp_path / str(number), gpt2_tensors(tiny_model()), gpt2_config(**changes)))
    tensors = gpt2_tensors(tiny_model()) | {"x" * 10_000: torch.ones(2)}
    refused(write_folder(tmp_path / "name", tensors, gpt2_config()))


def damaged(content):
    """The file with bytes changed, left out, or cut off."""
    return st.tuples(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.binary(min_size=1, max_size=8)), max_size=4),
        st.one_of(st.none(), st.integers(0, len(content))),
    ).map(lambda damage: patched(content, *damage))


def patched(content, patches, end):
    content = bytearray(content)
    for at, piece in patches:
        content[at : at + len(piece)] = piece
    return bytes(content[:end])


def small_files():
    """A checkpoint and a safetensors file of a model with few tokens: most of their bytes are structure."""
    model = tiny_model(vocab_size=3, context_length=2, emb_dim=4, n_heads=2, n_layers=1)
    archive = io.BytesIO()
    torch.save(model.state_dict(), archive)
    metadata = json.dumps({"n_heads": 2})
    return {"m.pth": archive.getvalue(), "m.safetensors": save(model.state_dict(), metadata={"config": metadata})}


FILES = small_files()


@pytest.mark.filterwarnings("ignore")  # torch warns of what it finds in a damaged file
@pytest.mark.parametrize("name", FILES)
def test_any_damage_is_a_sentence_or_a_model(tmp_path, name):
    @settings(max_examples=200, deadline=None, database=None)
    @given(damaged(FILES[name]))
    def check(content):
        path = tmp_path / name
        path.write_bytes(content)
        try:
            gptviz.load(path, device="cpu", n_heads=2)
        except WeightsError as error:
            assert len(str(error)) < 600  # noqa: PT017 - both outcomes are right

    check()


# --- overwritten while in use -----------------------------------------------------------------------

USE = """
import os, sys, gptviz
engine = gptviz.load(sys.argv[1], device="cpu", n_heads=4)
before = engine.run("Once upon a time").logits_at(-1)
os.truncate(sys.argv[1], 0)
assert (engine.run("Once upon a time").logits_at(-1) == before).all()
with open(sys.argv[1], "wb") as file:
    file.write(bytes(10_000_000))
assert (engine.run("Once upon a time").logits_at(-1) == before).all()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_file_that_is_overwritten_in_place_leaves_the_model_in_use_as_it_is(tmp_path, name):
    tensors = {key: tensor.clone() for key, tensor in tiny_model().state_dict().items()}
    (save_file if name.endswith("safetensors") else torch.save)(tensors, tmp_path / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / name)], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
