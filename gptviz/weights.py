"""Weights on disk -> a GPTModel: file formats, how names map to the course's, strict shape checks."""

import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .config import ConfigError, GPTConfig, check_config, parameter_count
from .model import DummyGPTModel, GPTModel
from .shared_row import SharedRow

HEAD_DIM = 64  # of every published GPT-2; taken where a checkpoint does not say how many heads it has


class WeightsError(ValueError):
    """Weights that cannot be loaded as a GPT-2; the message names the file or tensor, and what to do."""


class TooLargeError(WeightsError):
    """A model for which this machine has too little free memory."""


class Checkpoint(NamedTuple):
    """What a file or folder holds, under the course's names."""

    config: GPTConfig
    tensors: dict[str, Tensor]
    tied_head: bool
    notes: tuple[str, ...] = ()  # what had to be assumed, in sentences


def load_model(path: Path, *, n_heads: int | None = None, mapped: bool = False) -> tuple[GPTModel, Checkpoint]:
    """Build the model that `path` holds, in evaluation mode, in float32.

    `path` is a folder in Hugging Face form (config.json, model.safetensors or its shards), one
    safetensors file, or a course checkpoint (`.pth`, `.pt`). The file is read and looked through: a
    training run may overwrite it while the model is in use, and may have gone wrong. With `mapped`
    safetensors are memory-mapped and not looked through, which takes no time: for files that stay as
    they are, such as the hub's cache. Raises `WeightsError`.
    """
    checkpoint = read_checkpoint(path, n_heads=n_heads, mapped=mapped)
    model = model_without_values(checkpoint.config, tied_head=checkpoint.tied_head)
    check_tensors(checkpoint.tensors, model)
    check_memory(sum(4 * tensor.numel() for tensor in checkpoint.tensors.values() if tensor.dtype != torch.float32))
    tensors = {name: tensor.to(torch.float32) for name, tensor in checkpoint.tensors.items()}
    if not mapped:
        check_finite(tensors)
    if checkpoint.tied_head:
        tensors["out_head.weight"] = tensors["tok_emb.weight"]
    model.load_state_dict(tensors, assign=True)
    if checkpoint.tied_head:
        model.tie_head()
    model.requires_grad_(False)
    return model.eval(), checkpoint


class _SkipInitialValues(TorchFunctionMode):
    """Leaves new parameters as they are. On the meta device PyTorch's own initialisers load its compiler: a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", *args[:1])
        return func(*args, **kwargs)


@contextmanager
def _shapes_only() -> Iterator[None]:
    """Models built in here have shapes and no memory: their values come afterwards."""
    with torch.device("meta"), _SkipInitialValues():
        yield


def model_without_values(config: GPTConfig, *, tied_head: bool) -> GPTModel:
    """A model of this shape that has no memory for its weights: they are put in afterwards."""
    with _shapes_only():
        return GPTModel(config, tied_head=tied_head)


def untrained_model(config: GPTConfig, seed: int, *, tied_head: bool = True) -> GPTModel:
    """A model with random weights, as GPT-2 was initialised (Radford et al. 2019, section 2.3):
    normal with standard deviation 0.02, the layers that write into the stream smaller by
    sqrt(2 n_layers), biases zero."""
    check_memory(4 * parameter_count(config, tied_head=tied_head))
    model = model_without_values(config, tied_head=tied_head).to_empty(device="cpu")
    if tied_head:
        model.tie_head()
    generator = torch.Generator().manual_seed(seed)
    into_stream = 0.02 / (2 * config["n_layers"]) ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".bias", ".shift")):
                parameter.zero_()
            elif name.endswith(".scale"):
                parameter.fill_(1)
            else:
                writes = name.endswith(("out_proj.weight", "ff.layers.2.weight"))
                parameter.normal_(0, into_stream if writes else 0.02, generator=generator)
    return model.requires_grad_(False).eval()


def dummy_model(config: GPTConfig, seed: int) -> DummyGPTModel:
    """The course's skeleton with PyTorch's own random start: embeddings standard normal, the head
    uniform within 1 / sqrt(emb_dim)."""
    with _shapes_only():
        model = DummyGPTModel(config)
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    limit = config["emb_dim"] ** -0.5
    with torch.no_grad():
        model.tok_emb.weight.normal_(generator=generator)
        model.pos_emb.weight.normal_(generator=generator)
        model.out_head.weight.uniform_(-limit, limit, generator=generator)
    return model.requires_grad_(False).eval()


# --- reading -----------------------------------------------------------------------------------


def read_checkpoint(path: Path, *, n_heads: int | None = None, mapped: bool = False) -> Checkpoint:
    """Read `path` without building the model; see `load_model`. Tensors keep their stored type."""
    if not exists(path):
        raise WeightsError(f"There is no file or folder {_short(path)}: check the path.")
    if path.is_dir():
        tensors, metadata = _read_safetensors(_safetensors_in(path), mapped=mapped)
        stored = _read_json(path / "config.json") if (path / "config.json").exists() else None
    elif path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors([path], mapped=mapped)
        stored = None
    elif path.suffix in {".pth", ".pt"}:
        tensors, stored = _read_course_checkpoint(path)
        metadata = {}
    else:
        raise WeightsError(f"{path.name} is no model file: give a folder, .safetensors, .pth or .pt.")
    if stored is None and "config" in metadata:
        stored = _parse_json(metadata["config"], f"The config in the metadata of {path.name}")
    if "token_ids" in metadata:
        tensors = _with_all_rows(tensors, metadata["token_ids"], stored)

    try:
        return _under_course_names(tensors, stored, n_heads)
    except ConfigError as error:
        raise WeightsError(f"The model's configuration is wrong. {error}") from error


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; no word is too strange to ask for."""
    try:
        return path.exists()
    except OSError:  # too long, or in a folder that may not be read
        return False


def _short(word: object) -> str:
    """What a file says of itself, in a sentence: it may be a megabyte long."""
    return str(word) if len(str(word)) <= 200 else f"{str(word)[:200]}…"


def _safetensors_in(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if index.exists():
        weight_map = _read_json(index).get("weight_map")
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if names and all(isinstance(name, str) and Path(name).name == name != ".." for name in names):
            return [folder / name for name in sorted(set(names))]
        raise WeightsError(f"{index.name} lists no weight files of this folder: save the model again.")
    raise WeightsError(f"The folder {folder.name} has no model.safetensors: save the model with safetensors.")


def _read_safetensors(paths: Sequence[Path], *, mapped: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    check_memory(sum(path.stat().st_size for path in paths if exists(path)))
    for path in paths:
        try:
            # A mapped file that is overwritten in place, as a training run does, ends the process.
            with safe_open(path, framework="pt", backend="mmap" if mapped else "pread") as file:
                metadata |= file.metadata() or {}
                for name in file.keys():  # noqa: SIM118 - not a dict
                    tensors[name] = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path.name} cannot be read as safetensors ({error}): get the file again.") from error
    return tensors, metadata


def _with_all_rows(tensors: dict[str, Tensor], token_ids: str, stored: dict[str, Any] | None) -> dict[str, Tensor]:
    """Write out the embedding and head of a file that has rows for some ids, and one that all others share."""
    ids = _parse_json(f'{{"ids": {token_ids}}}', "The list of token ids")["ids"]
    vocab_size = (stored or {}).get("vocab_size")
    if not isinstance(vocab_size, int) or not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise WeightsError("The list of token ids, or the vocabulary's size, is none: save the model again.")
    names = [name for name in ("tok_emb.weight", "out_head.weight") if name in tensors]
    n_held = sum(tensor.numel() for tensor in tensors.values())
    for name in names:
        if tensors[name].dim() != 2 or len(tensors[name]) != len(ids) + 1:
            raise WeightsError(f"The tensor {name} does not have a row for each token id, and one more: save it again.")
        if vocab_size * tensors[name].shape[1] > max(100 * n_held, 10**7):  # a small file could ask for any memory
            raise WeightsError(
                f"The vocabulary of {vocab_size:,} ids is too large for this file: save the model again."
            )
    try:
        shared = SharedRow(ids, vocab_size)
    except (ValueError, OverflowError) as error:
        raise WeightsError(f"{error} Save the model again.") from error
    return tensors | {name: shared.write_out(tensors[name]) for name in names}


def _read_course_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """A bare state dict, or the course's dict with `model_state_dict` (and perhaps a config) in it."""
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path.name} holds more than tensors, and reading it could run code, so it was not read: "
            "save it again with torch.save(model.state_dict(), ...)."
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise WeightsError(f"{path.name} cannot be read as a PyTorch checkpoint: save it again.") from error
    stored = None
    if isinstance(content, Mapping) and isinstance(content.get("model_state_dict"), Mapping):
        configs = (content.get(key) for key in ("config", "cfg", "model_config"))
        stored = next((config for config in configs if isinstance(config, Mapping)), None)
        content = content["model_state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise WeightsError(f"{path.name} holds no state dict: save it with torch.save(model.state_dict(), ...).")
    return dict(content), dict(stored) if stored else None


def _check_archive(path: Path) -> None:
    """A checkpoint is a zip archive in which torch compresses nothing: one that grows when it is read is a trap."""
    try:
        n_bytes = path.stat().st_size
        unpacked = 0
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path.name} cannot be read as a PyTorch checkpoint: save it again.") from error
    if unpacked > n_bytes:
        raise WeightsError(
            f"{path.name} has {n_bytes:,} bytes and would unpack to {unpacked:,}, which no checkpoint does, so it was "
            "not read: save it again with torch.save(model.state_dict(), ...)."
        )
    check_memory(n_bytes)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
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


# --- names -------------------------------------------------------------------------------------

# GPT-2's own names -> the course's. Its matrices are stored [in, out], so they are transposed;
# `c_attn` holds query, key and value side by side.
_GPT2_NAMES = {
    "wte.weight": "tok_emb.weight",
    "wpe.weight": "pos_emb.weight",
    "ln_f.weight": "final_norm.scale",
    "ln_f.bias": "final_norm.shift",
    "lm_head.weight": "out_head.weight",
}
_GPT2_BLOCK_NAMES = {
    "ln_1.weight": "norm1.scale",
    "ln_1.bias": "norm1.shift",
    "ln_2.weight": "norm2.scale",
    "ln_2.bias": "norm2.shift",
    "attn.c_proj.weight": "att.out_proj.weight",
    "attn.c_proj.bias": "att.out_proj.bias",
    "mlp.c_fc.weight": "ff.layers.0.weight",
    "mlp.c_fc.bias": "ff.layers.0.bias",
    "mlp.c_proj.weight": "ff.layers.2.weight",
    "mlp.c_proj.bias": "ff.layers.2.bias",
}
_MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias|trf_blocks\.\d+\.att\.mask")


def _under_course_names(tensors: dict[str, Tensor], stored: dict[str, Any] | None, n_heads: int | None) -> Checkpoint:
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not _MASK_BUFFER.fullmatch(name)}
    _check_plain(tensors)
    from_hugging_face = stored is not None and "model_type" in stored
    if stored is not None and from_hugging_face:
        config, tied = config_from_hugging_face(stored)
        if n_heads not in (None, config["n_heads"]):
            raise WeightsError(
                f"config.json says that the model has {config['n_heads']} heads, not {n_heads}: leave it out."
            )
        tensors = from_gpt2_names(tensors)
        notes: tuple[str, ...] = ()
    else:
        if "wte.weight" in tensors:
            tensors = from_gpt2_names(tensors)
        config, notes = config_from_tensors(tensors, stored, n_heads)
        tied = "out_head.weight" not in tensors

    head = tensors.get("out_head.weight")
    if not tied and head is not None and "tok_emb.weight" in tensors:
        embedding = tensors["tok_emb.weight"]
        # A tied head saved twice is still one tensor: keep one.
        tied = head.data_ptr() == embedding.data_ptr() or torch.equal(head, embedding)
    if tied:
        tensors.pop("out_head.weight", None)
    _check_size(config, tied, tensors)
    return Checkpoint(config, tensors, tied, notes)


def from_gpt2_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's own names and layout -> the course's. Tensors are views: nothing is copied."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in _GPT2_NAMES:
            renamed[_GPT2_NAMES[name]] = tensor
            continue
        block = re.fullmatch(r"h\.(\d+)\.(.+)", name)
        if not block:
            raise WeightsError(f"The tensor {_short(name)} is none of GPT-2's: this is another architecture.")
        prefix, part = f"trf_blocks.{block[1]}", block[2]
        is_matrix = part.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        if tensor.dim() != (2 if is_matrix else 1) or ("c_attn" in part and tensor.shape[-1] % 3):
            raise WeightsError(
                f"The tensor {name} is wrongly shaped, {list(tensor.shape)}: get or save the file again."
            )
        if part in ("attn.c_attn.weight", "attn.c_attn.bias"):
            kind = part.rpartition(".")[2]
            for target, piece in zip(("query", "key", "value"), tensor.chunk(3, dim=-1), strict=True):
                renamed[f"{prefix}.att.W_{target}.{kind}"] = piece.T if kind == "weight" else piece
        elif part in _GPT2_BLOCK_NAMES:
            renamed[f"{prefix}.{_GPT2_BLOCK_NAMES[part]}"] = tensor.T if is_matrix else tensor
        else:
            raise WeightsError(f"The tensor {_short(name)} is none of GPT-2's: this is another architecture.")
    return renamed


# --- config ------------------------------------------------------------------------------------


def config_from_hugging_face(stored: Mapping[str, Any]) -> tuple[GPTConfig, bool]:
    """A Hugging Face config.json -> the course's config, and whether the head is tied.

    What would make the model compute something other than GPT-2 is refused.
    """
    if stored["model_type"] != "gpt2":
        raise WeightsError(f"This is a {_short(stored['model_type'])!r} model, and gptviz shows GPT-2: choose another.")
    must_be: dict[str, tuple[Any, ...]] = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "n_inner": (None, 4 * stored["n_embd"] if isinstance(stored.get("n_embd"), int) else None),
    }
    for key, allowed in must_be.items():
        if key in stored and stored[key] not in allowed:
            raise WeightsError(
                f"The model has {key} = {_short(repr(stored[key]))}, which GPT-2 does not: choose another model."
            )
    names = {"vocab_size": "vocab_size", "n_embd": "emb_dim", "n_head": "n_heads", "n_layer": "n_layers"}
    if missing := [name for name in (*names, "n_positions") if name not in stored]:
        raise WeightsError(f"config.json lacks {', '.join(missing)}: save the model again.")
    config = {course: stored[name] for name, course in names.items()}
    config |= {
        "context_length": stored["n_positions"],
        "drop_rate": stored.get("resid_pdrop", 0.1),
        "qkv_bias": True,
    }
    return check_config(config), stored.get("tie_word_embeddings", True)


def config_from_tensors(
    tensors: Mapping[str, Tensor], stored: Mapping[str, Any] | None, n_heads: int | None
) -> tuple[GPTConfig, tuple[str, ...]]:
    """Read the config off the shapes. Also gives what had to be assumed, in sentences.

    Shapes do not tell the number of heads nor the drop rate: they come from `n_heads` or a
    stored course config, or are taken as in the published models (64 dimensions a head, 0.1).
    """
    for name in ("tok_emb.weight", "pos_emb.weight"):
        if name not in tensors or tensors[name].dim() != 2:
            raise WeightsError(f"The tensor {name} is missing or no matrix: this is no checkpoint of the course.")
    vocab_size, emb_dim = tensors["tok_emb.weight"].shape
    layers = {int(match[1]) for name in tensors if (match := re.match(r"trf_blocks\.(\d+)\.", name))}
    notes: list[str] = []
    stored = stored or {}
    n_heads = n_heads or stored.get("n_heads")
    if n_heads is None:
        if emb_dim % HEAD_DIM:
            raise WeightsError(
                "The checkpoint does not say how many heads it has: load it with gptviz.load(path, n_heads=...), "
                "or save a dict with model_state_dict and config."
            )
        n_heads = emb_dim // HEAD_DIM
        notes.append(
            f"The checkpoint does not say how many heads it has: {n_heads} were taken, with {HEAD_DIM} dimensions each "
            "as in the published GPT-2 models. If yours has another number, pass n_heads."
        )
    config = {
        "vocab_size": vocab_size,
        "context_length": tensors["pos_emb.weight"].shape[0],
        "emb_dim": emb_dim,
        "n_heads": n_heads,
        "n_layers": len(layers),
        "drop_rate": stored.get("drop_rate", 0.1),
        "qkv_bias": "trf_blocks.0.att.W_query.bias" in tensors,
    }
    # Where a stored config and the tensors differ, `check_tensors` names the tensors.
    config |= {name: value for name, value in stored.items() if name in config and name != "n_heads"}
    return check_config(config), tuple(notes)


# --- checks ------------------------------------------------------------------------------------


def check_memory(n_bytes: int) -> None:
    """Raise `TooLargeError` if this machine has not so much free memory: the system ends a process that takes it."""
    free = psutil.virtual_memory().available
    if n_bytes > free:
        raise TooLargeError(
            f"This model needs {n_bytes / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free: "
            "choose a smaller one, or close other programs."
        )


def _check_plain(tensors: Mapping[str, Tensor]) -> None:
    """No tensor is of a kind that cannot be computed with, nor claims more numbers than are there."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or not tensor.is_floating_point():
            raise WeightsError(f"The tensor {_short(name)} does not hold plain floating-point numbers: save it again.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f"The tensor {_short(name)} claims more numbers than the file holds: save it again.")


def _check_size(config: GPTConfig, tied_head: bool, tensors: Mapping[str, Tensor]) -> None:
    """A few bytes of configuration can ask for any size: hold it against the file before it is built."""
    wanted = parameter_count(config, tied_head=tied_head)
    held = sum(tensor.numel() for tensor in tensors.values())
    if wanted > 10 * held:  # nearer to it, `check_tensors` names what is missing
        raise WeightsError(
            f"The configuration asks for {wanted:,} parameters, and the file holds {held:,}: "
            "they are not of the same model."
        )


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise `WeightsError` if a weight is NaN or infinite: every number that the model gives would be none."""
    for name, tensor in tensors.items():
        if not all(end.isfinite() for end in tensor.aminmax()):  # NaN wins in both; no copy is made
            n_broken = int((~tensor.isfinite()).sum())
            raise WeightsError(
                f"The weights are broken: {n_broken:,} of the {tensor.numel():,} values of {name} are NaN or infinite. "
                "Take a checkpoint from before the training went wrong."
            )


@dataclass(frozen=True)
class _Difference:
    missing: list[str]
    extra: list[str]
    misshapen: list[str]

    def sentence(self) -> str:
        parts = [
            f"{kind}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for kind, names in (
                ("missing", self.missing),
                ("not GPT-2's", self.extra),
                ("wrongly shaped", self.misshapen),
            )
            if names
        ]
        return f"The weights do not fit the model ({'; '.join(parts)}): get or save the file again."


def check_tensors(tensors: Mapping[str, Tensor], model: GPTModel) -> None:
    """Raise `WeightsError`, naming them, if tensors that `model` needs are missing, extra, or wrongly shaped."""
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    difference = _Difference(
        missing=sorted(set(expected) - set(found)),
        extra=sorted(set(found) - set(expected)),
        misshapen=[
            f"{name} is {list(found[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    )
    if difference.missing or difference.extra or difference.misshapen:
        raise WeightsError(difference.sentence())
