"""Reading weight files: tensors under their stored names, and the config stored with them.

A file may be damaged, hostile or endless. It then becomes a one-sentence error, runs no code, and fills no memory.
"""

import json
import pickle
import stat
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from . import pickles
from .quote import named
from .shared_row import SharedRow

MOST_JSON_BYTES = 10_000_000
MOST_TENSORS = 20_000  # per model; GPT-2 XL has fewer than a thousand
_STATE_DICTS = ("model_state_dict", "state_dict", "model")  # keys of a checkpoint that may hold it
_CONFIGS = ("config", "cfg", "model_config", "model_args")
_KEYS_OF_CONFIGS = {"model_type", "n_head", "n_embd", "n_heads", "emb_dim"}  # absent from other programs' config.json
_LEGACY_PICKLES = 5  # in a file that is not a zip archive: magic number, version, machine, content, keys


class WeightsError(ValueError):
    """Weights that cannot be loaded as a GPT-2; the message names the file or tensor and says what to do."""


class TooLargeError(WeightsError):
    """A model that needs more memory than this machine has free."""


class Stored(NamedTuple):
    """The contents of a file or folder, as stored."""

    tensors: dict[str, Tensor]
    config: dict[str, Any] | None  # from the file or folder itself
    config_beside: Path | None = None  # a config.json beside a checkpoint; it may belong to another model


def read_stored(path: Path, *, mapped: bool = False) -> Stored:
    """Read a folder, a safetensors file, or a checkpoint (`.pth`, `.pt`, `.bin`). Raises `WeightsError`."""
    if not exists(path):
        raise WeightsError(f"There is no file or folder {str(path)[:200]!r}: check the path.")
    folder = path if path.is_dir() else path.parent
    beside = folder / "config.json" if exists(folder / "config.json") else None
    files = _weight_files(path) if path.is_dir() else [path]
    if files[0].suffix == ".safetensors":
        tensors, config = _read_safetensors(files, mapped=mapped)
    elif files[0].suffix in {".pth", ".pt", ".bin"}:
        tensors, config = _read_pickled(files[0])
    else:
        raise WeightsError(f"{named(path.name)} is no model file: give a folder, .safetensors, .pth, .pt or .bin.")
    if files[0].suffix in {".pth", ".pt"}:
        return Stored(tensors, config, beside)
    of_folder = read_json(beside) if beside else {}
    return Stored(tensors, of_folder if of_folder.keys() & _KEYS_OF_CONFIGS else config)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; False for anything that cannot be a path."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, in an unreadable folder, or not a valid name on this file system
        return False


def check_memory(n_bytes: int) -> None:
    """Raise `TooLargeError` if less memory than `n_bytes` is free: the system would kill a process that takes it."""
    free = psutil.virtual_memory().available
    if n_bytes > free:
        raise TooLargeError(
            f"This model needs {n_bytes / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free: "
            "choose a smaller one, or close other programs."
        )


def _size(path: Path) -> int:
    """Return the size of a regular file in bytes. Other files, such as pipes, may be endless and are refused."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise WeightsError(f"{named(path.name)} is missing or cannot be read: get or save the model again.") from error
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError(f"{named(path.name)} is no regular file: get or save the model again.")
    return status.st_size


def _check_number(n_tensors: int, path: Path) -> None:
    if n_tensors > MOST_TENSORS:
        raise WeightsError(f"{named(path.name)} holds {n_tensors:,} tensors, and no GPT-2 has so many: save it again.")


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    pickled = folder / "pytorch_model.bin"
    if exists(single):
        return [single]
    if exists(index):
        weight_map = read_json(index).get("weight_map")
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if names and all(isinstance(name, str) and _is_safetensors_here(name) for name in names):
            return [folder / name for name in sorted(set(names))]
        raise WeightsError(f"{index.name} lists no weight files of this folder: save the model again.")
    if exists(pickled):
        return [pickled]
    raise WeightsError(
        f"The folder {named(folder.name)} has no model.safetensors nor pytorch_model.bin: save the model with "
        "safetensors."
    )


def _is_safetensors_here(name: str) -> bool:
    return Path(name).name == name and name.endswith(".safetensors")


# --- safetensors -------------------------------------------------------------------------------


def _read_safetensors(paths: Sequence[Path], *, mapped: bool) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the tensors, and the config from the metadata if there is one."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    check_memory(sum(map(_size, paths)))
    for path in paths:
        try:
            _check_header(path)
            # The process crashes if a mapped file is overwritten in place, as a training run does.
            with safe_open(path, framework="pt", backend="mmap" if mapped else "pread") as file:
                metadata |= file.metadata() or {}
                names = file.keys()
                _check_number(len(tensors) + len(names), path)
                tensors |= {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:  # its message may name the folder, which visitors must not see
            raise WeightsError(f"{named(path.name)} cannot be read as safetensors: get the file again.") from error
    config = None
    if "config" in metadata:
        config = _parse_json(metadata["config"], f"The config in the metadata of {named(paths[0].name)}")
    if "token_ids" in metadata:
        tensors = _with_all_rows(tensors, metadata["token_ids"], config, paths[0])
    return tensors, config


def _with_all_rows(
    tensors: dict[str, Tensor], token_ids: str, config: dict[str, Any] | None, path: Path
) -> dict[str, Tensor]:
    """Write out the embedding and head of a file that has rows for some ids, and one row that all others share."""
    source = f"The list of token ids in {named(path.name)}"
    ids = _parse_json(f'{{"ids": {token_ids}}}', source).get("ids")
    vocab_size = (config or {}).get("vocab_size")
    if type(vocab_size) is not int or not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise WeightsError(f"{source}, or the size of its vocabulary, is not valid: save the model again.")
    names = [name for name in ("tok_emb.weight", "out_head.weight") if name in tensors]
    n_held = sum(tensor.numel() for tensor in tensors.values())
    for name in names:
        if tensors[name].dim() != 2 or len(tensors[name]) != len(ids) + 1:
            raise WeightsError(f"{source} does not fit the rows of {name}: save the model again.")
        width = tensors[name].shape[1]
        if vocab_size * width > max(100 * n_held, 10**7):  # A small file could ask for any amount of memory.
            raise WeightsError(f"{source} has a vocabulary too large for the file: save the model again.")
        check_memory(vocab_size * width * tensors[name].element_size())
    try:
        shared = SharedRow(ids, vocab_size)
    except (ValueError, OverflowError) as error:
        raise WeightsError(f"{source} is not valid. {error} Save the model again.") from error
    return tensors | {name: shared.write_out(tensors[name]) for name in names}


def _check_header(path: Path) -> None:
    """Refuse a header that is too large. The header is JSON, and its length is in the 8 bytes before it."""
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) == 8 and MOST_JSON_BYTES < struct.unpack("<Q", start)[0] < _size(path):
        raise WeightsError(
            f"The header of {named(path.name)} has more than {MOST_JSON_BYTES / 1e6:.0f} MB, and no GPT-2's has so "
            "many: get the file again."
        )


# --- PyTorch's checkpoints ---------------------------------------------------------------------


def _read_pickled(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Read a bare state dict, or one under a usual key of a dict, perhaps with a config beside it."""
    check_memory(_size(path))
    try:
        _check_pickles(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickles.NotPlainError, pickle.UnpicklingError) as error:
        asked = f" ({named(str(error))})" if isinstance(error, pickles.NotPlainError) else ""
        raise WeightsError(
            f"{named(path.name)} holds more than tensors, and reading it could run code or fill the memory, so it was "
            f"not read{asked}: save it again with torch.save(model.state_dict(), ...)."
        ) from error
    except WeightsError:
        raise
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        raise WeightsError(f"{named(path.name)} cannot be read as a PyTorch checkpoint: save it again.") from error
    if _is_state_dict(content):
        _check_number(len(content), path)
        return dict(content), None
    inner = [key for key in _STATE_DICTS if isinstance(content, Mapping) and _is_state_dict(content.get(key))]
    if len(inner) > 1:
        raise WeightsError(f"{named(path.name)} holds several state dicts, {', '.join(inner)}: save one of them.")
    if not inner:
        raise WeightsError(
            f"{named(path.name)} holds no state dict, by itself or under {', '.join(_STATE_DICTS)}: save it with "
            "torch.save(model.state_dict(), ...)."
        )
    _check_number(len(content[inner[0]]), path)
    configs = [content[key] for key in _CONFIGS if isinstance(content.get(key), Mapping)]
    return dict(content[inner[0]]), dict(configs[0]) if configs else None


def _is_state_dict(content: object) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )


def _check_pickles(path: Path) -> None:
    """Check what the file would build before torch builds it (see `gptviz.pickles`)."""
    n_bytes = _size(path)
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            start = file.read(pickles.MOST_BYTES)
        if sum(pickles.storage_bytes(start, _LEGACY_PICKLES).values()) > n_bytes:
            raise pickles.NotPlainError("more numbers than the file holds")
        return
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.lower(): entry for entry in archive.infolist()}  # torch ignores case
        # torch does not compress, so an archive that unpacks to more than its own size is a trap.
        if (unpacked := sum(entry.file_size for entry in archive.infolist())) > n_bytes:
            raise WeightsError(
                f"{named(path.name)} has {n_bytes:,} bytes and would unpack to {unpacked:,}, which no checkpoint does, "
                "so it was not read: save it again with torch.save(model.state_dict(), ...)."
            )
        content = [name for name in entries if name.endswith("/data.pkl")]
        if len(content) != 1 or len(entries) != len(archive.infolist()):
            raise pickles.NotPlainError("an archive with two contents, or none")
        if entries[content[0]].file_size > pickles.MOST_BYTES:
            raise pickles.NotPlainError(f"more than {pickles.MOST_BYTES / 1e6:.0f} MB besides the tensors")
        wanted = pickles.storage_bytes(archive.read(entries[content[0]]), 1)
        for key, wanted_bytes in wanted.items():
            entry = entries.get(f"{content[0].removesuffix('data.pkl')}data/{key}".lower())
            if entry is None or entry.file_size < wanted_bytes:
                raise pickles.NotPlainError("more numbers than the file holds")


# --- JSON --------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a regular file of at most 10 MB. Raises `WeightsError`."""
    if _size(path) > MOST_JSON_BYTES:
        raise WeightsError(
            f"{path.name} has more than {MOST_JSON_BYTES / 1e6:.0f} MB, and no model's has so many: save it again."
        )
    try:
        with path.open("rb") as file:  # a system file may report no size and never end
            text = file.read(MOST_JSON_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path.name} cannot be read: save the model again.") from error
    return _parse_json(text, path.name)


def _parse_json(text: str, source: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{source} cannot be read as JSON: save the model again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{source} holds no JSON object: save the model again.")
    return content
