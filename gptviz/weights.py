"""Building a GPTModel from weights on disk: options in the path, the config, and strict checks of the tensors."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .checkpoints import WeightsError, check_memory, exists, read_json, read_stored
from .config import ConfigError, GPTConfig, check_config, parameter_count
from .model import DummyGPTModel, GPTModel
from .naming import from_gpt2_names, is_gpt2s, with_lora_merged, without_task_head, without_wrappers
from .quote import named, quoted

HEAD_DIM = 64  # of every published GPT-2; assumed if a checkpoint does not say how many heads it has
_GIVE_HEADS = "add it to the path, model.pth?n_heads=4, or load it with gptviz.load(path, n_heads=4)"


class Checkpoint(NamedTuple):
    """The contents of a file or folder, under the course's names."""

    config: GPTConfig
    tensors: dict[str, Tensor]
    tied_head: bool
    notes: tuple[str, ...] = ()  # what the user would not expect, in whole sentences
    n_heads_guessed: bool = False


def load_model(
    path: Path, *, n_heads: int | None = None, lora_scale: float | None = None, mapped: bool = False
) -> tuple[GPTModel, Checkpoint]:
    """Build the model that `path` holds, in evaluation mode and float32.

    `path` is a folder in Hugging Face form (config.json, model.safetensors or its shards), a
    safetensors file or `.bin` of such a folder, or a checkpoint of the course (`.pth`, `.pt`).
    `n_heads` and `lora_scale`, the factor of its LoRA layers, are for checkpoints that do not store them.
    The file is read into memory and checked for NaN and infinity, because a training run may overwrite
    it while the model is in use, and may have gone wrong. With `mapped`, safetensors are memory-mapped
    and not checked, which takes no time. Use it for files that do not change, such as the hub's cache.
    Raises `WeightsError`.
    """
    checkpoint = read_checkpoint(path, n_heads=n_heads, lora_scale=lora_scale, mapped=mapped)
    model = model_without_values(checkpoint.config, tied_head=checkpoint.tied_head)
    check_tensors(checkpoint.tensors, model)
    check_memory(sum(4 * tensor.numel() for tensor in checkpoint.tensors.values() if tensor.dtype != torch.float32))
    tensors = {name: tensor.to(torch.float32) for name, tensor in checkpoint.tensors.items()}
    if not mapped:
        check_finite(tensors)
    return with_values(model, tensors), checkpoint


class _SkipInitialValues(TorchFunctionMode):
    """Skips PyTorch's initialisers, because on the meta device they load its compiler, which is slow."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", *args[:1])
        return func(*args, **kwargs)


@contextmanager
def _shapes_only() -> Iterator[None]:
    """Build models in this block with shapes but without memory; their values come afterwards."""
    with torch.device("meta"), _SkipInitialValues():
        yield


def model_without_values(config: GPTConfig, *, tied_head: bool) -> GPTModel:
    """Return a model of this shape without memory for its weights, which are put in afterwards."""
    with _shapes_only():
        return GPTModel(config, tied_head=tied_head)


def with_values(model: GPTModel, tensors: Mapping[str, Tensor]) -> GPTModel:
    """Put tensors into a model without values, and return it frozen and in evaluation mode. Nothing is copied.

    A tied head takes the token embedding, whatever `tensors` has in its place.
    """
    tied_head = model.tied_head  # the new tensors are two parameters until they are tied again
    if tied_head:
        tensors = {**tensors, "out_head.weight": tensors["tok_emb.weight"]}
    model.load_state_dict(tensors, assign=True)
    if tied_head:
        model.tie_head()
    return model.requires_grad_(False).eval()


def untrained_model(config: GPTConfig, seed: int, *, tied_head: bool = True) -> GPTModel:
    """Return a model with random weights, initialised as GPT-2 was (Radford et al. 2019, section 2.3).

    Weights are normal with standard deviation 0.02, divided by sqrt(2 n_layers) in the layers that
    write into the residual stream. Biases are zero.
    """
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
    """Return the course's skeleton with PyTorch's default random initialisation.

    The embeddings are standard normal, and the output head is uniform within 1 / sqrt(emb_dim).
    """
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


_OPTIONS = {"n_heads": "[1-9][0-9]{0,8}", "lora_scale": r"-?[0-9]{1,9}(\.[0-9]{1,9})?"}


class Source(NamedTuple):
    """The path of a model, and what its file does not store."""

    path: Path
    n_heads: int | None = None
    lora_scale: float | None = None


def read_source(word: str) -> Source:
    """Parse a path that may end in options: `model.pth?n_heads=4&lora_scale=0.5`.

    If there is a file of that full name, the whole is its path. Raises `WeightsError` for other options.
    """
    name, options = split_options(word)
    found = dict(option.split("=", 1) for option in options.split("&") if option)
    for option, value in found.items():
        if option not in _OPTIONS or not re.fullmatch(_OPTIONS[option], value):
            raise WeightsError(
                f"{named(f'{option}={value}')} behind a path is no option: write n_heads=4 or lora_scale=0.5."
            )
    heads, scale = found.get("n_heads"), found.get("lora_scale")
    return Source(Path(name), int(heads) if heads else None, float(scale) if scale else None)


def split_options(word: str) -> tuple[str, str]:
    """Return the path, and the text of the options after its question mark."""
    match = re.fullmatch(r"(.+)\?((?:&?\w+=[^&?/]*)+)", word, re.DOTALL)
    return (match[1], match[2]) if match and not exists(Path(word)) else (word, "")


def read_checkpoint(
    path: Path, *, n_heads: int | None = None, lora_scale: float | None = None, mapped: bool = False
) -> Checkpoint:
    """Read `path` without building the model (see `load_model`). Tensors keep their stored dtype."""
    stored = read_stored(path, mapped=mapped)
    tensors = without_wrappers(stored.tensors)
    _check_plain(tensors)
    config = stored.config
    if config is None and stored.config_beside and is_gpt2s(tensors):
        config = read_json(stored.config_beside)
    tensors = with_lora_merged(tensors, lora_scale)
    tensors, n_classes = without_task_head(tensors)
    if is_gpt2s(tensors) or (config is not None and is_hugging_face(config) and "tok_emb.weight" not in tensors):
        tensors = from_gpt2_names(tensors)
    try:
        return _checkpoint(tensors, config, n_heads, n_classes)
    except ConfigError as error:
        raise WeightsError(f"The model's configuration is wrong. {error}") from error


def _checkpoint(
    tensors: dict[str, Tensor], stored: Mapping[str, Any] | None, n_heads: int | None, n_classes: int | None
) -> Checkpoint:
    notes = []
    if stored is not None and is_hugging_face(stored):
        config, promised = config_from_hugging_face(stored, tensors, n_heads), stored.get("tie_word_embeddings", True)
        guessed = False
    else:
        config, guessed = config_from_tensors(tensors, stored, n_heads)
        promised = "out_head.weight" not in tensors
    tied = bool(promised) or n_classes is not None
    if n_classes is not None:
        notes.append(
            f"This is a classifier with {n_classes:,} classes, and its blocks are shown. It has no head for next "
            "tokens: the token embedding is taken for one, as in GPT-2, and the next tokens are not what it was "
            "trained for."
        )
    elif (head := tensors.get("out_head.weight")) is not None:
        tied = _same(head, tensors.get("tok_emb.weight"))  # a tied head saved twice is still one tensor: keep one
        if promised and not tied:
            notes.append(
                "config.json says that the output head is the token embedding, and the file holds another head: that "
                "one is used, as transformers does."
            )
    if tied:
        tensors.pop("out_head.weight", None)
    _check_size(config, tied, tensors)
    return Checkpoint(config, tensors, tied, tuple(notes), guessed)


def _same(head: Tensor, embedding: Tensor | None) -> bool:
    if embedding is None or head.shape != embedding.shape:
        return False
    return head.data_ptr() == embedding.data_ptr() or torch.equal(head, embedding.to(head.dtype))


# --- config ------------------------------------------------------------------------------------


def is_hugging_face(stored: Mapping[str, Any]) -> bool:
    """Whether a stored config is in transformers' format, not the course's."""
    return bool({"model_type", "n_head", "n_embd"} & stored.keys())


def config_from_hugging_face(
    stored: Mapping[str, Any], tensors: Mapping[str, Tensor], n_heads: int | None
) -> GPTConfig:
    """Convert a Hugging Face config.json to the course's config, with missing sizes read off the tensors.

    Options that would make the model compute something other than GPT-2 are refused.
    `reorder_and_upcast_attn` is accepted, because in float32 it is the same computation.
    """
    if (kind := stored.get("model_type", "gpt2")) != "gpt2":
        raise WeightsError(f"This is a {quoted(kind)} model, and gptviz shows GPT-2: choose another.")
    sizes = {key: stored.get(theirs, _sizes(tensors).get(key)) for key, theirs in _SIZES.items()}
    if missing := [_SIZES[key] for key, value in sizes.items() if value is None]:
        raise WeightsError(f"config.json lacks {', '.join(missing)}: save the model again.")
    config: dict[str, Any] = {
        **sizes,
        "n_heads": stored.get("n_head", n_heads),
        "drop_rate": stored.get("resid_pdrop", 0.1),
        "qkv_bias": True,
    }
    if config["n_heads"] is None:
        raise WeightsError(f"config.json lacks n_head: add it there, or {_GIVE_HEADS}.")
    check_heads(config["n_heads"], n_heads)
    checked = check_config(config)
    must_be: dict[str, tuple[Any, ...]] = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "n_inner": (None, 4 * checked["emb_dim"]),
    }
    for key, allowed in must_be.items():
        if key in stored and stored[key] not in allowed:
            raise WeightsError(
                f"The model has {key} = {quoted(stored[key])}, which GPT-2 does not: choose another model."
            )
    return checked


def config_from_tensors(
    tensors: Mapping[str, Tensor], stored: Mapping[str, Any] | None, n_heads: int | None
) -> tuple[GPTConfig, bool]:
    """Read the config off the tensors' shapes. Also return whether the number of heads is a guess.

    Shapes do not determine the number of heads or the drop rate. These come from `n_heads` or a
    stored course config, or are assumed as in the published models (64 dimensions per head, 0.1).
    """
    for name in ("tok_emb.weight", "pos_emb.weight"):
        if name not in tensors or tensors[name].dim() != 2:
            raise WeightsError(f"The tensor {name} is missing or no matrix: this is no checkpoint of the course.")
    sizes = _sizes(tensors)
    stored = stored or {}
    if "n_heads" in stored:
        check_heads(stored["n_heads"], n_heads)
    n_heads = stored.get("n_heads", n_heads)
    is_guess = n_heads is None
    if is_guess and sizes["emb_dim"] % HEAD_DIM:
        raise WeightsError(
            f"The checkpoint does not say how many heads it has: {_GIVE_HEADS}, or save a dict with model_state_dict "
            "and config."
        )
    config = {
        **sizes,
        "n_heads": sizes["emb_dim"] // HEAD_DIM if is_guess else n_heads,
        "drop_rate": stored.get("drop_rate", 0.1),
        "qkv_bias": "trf_blocks.0.att.W_query.bias" in tensors,
    }
    # If a stored config and the tensors differ, `check_tensors` names the tensors.
    config |= {name: value for name, value in stored.items() if name in config and name != "n_heads"}
    return check_config(config), is_guess


_SIZES = {"vocab_size": "vocab_size", "context_length": "n_positions", "emb_dim": "n_embd", "n_layers": "n_layer"}


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes that the shapes determine, under the course's names in `_SIZES`."""
    layers = {match[1] for name in tensors if (match := re.match(r"trf_blocks\.([0-9]+)\.", name))}
    sizes = {"n_layers": len(layers)}
    for name, key in (("tok_emb.weight", "vocab_size"), ("pos_emb.weight", "context_length")):
        if name in tensors and tensors[name].dim() == 2:
            sizes[key], sizes["emb_dim"] = tensors[name].shape
    return sizes


# --- checks ------------------------------------------------------------------------------------


def check_heads(known: object, asked: int | None) -> None:
    """Raise `WeightsError` if a number of heads is asked for and differs from the model's known number."""
    if asked is not None and asked != known:
        raise WeightsError(f"The model has {quoted(known)} heads by its own configuration, not {asked}: leave it out.")


def _check_plain(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that cannot be computed with, or that claim more numbers than the file holds."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or not tensor.is_floating_point():
            raise WeightsError(f"The tensor {named(name)} does not hold plain floating-point numbers: save it again.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f"The tensor {named(name)} claims more numbers than the file holds: save it again.")


def _check_size(config: GPTConfig, tied_head: bool, tensors: Mapping[str, Tensor]) -> None:
    """Compare the configured size with the file before building, because a few bytes can ask for any size."""
    wanted = parameter_count(config, tied_head=tied_head)
    held = sum(tensor.numel() for tensor in tensors.values())
    # For smaller differences, `check_tensors` names what is missing. Narrow blocks have few parameters, so the
    # number of blocks is also checked.
    if wanted > 10 * held or config["n_layers"] > len(tensors):
        raise WeightsError(
            f"The configuration asks for {wanted:,} parameters, and the file holds {held:,}: "
            "they are not of the same model."
        )


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise `WeightsError` if a weight is NaN or infinite, because it would spoil everything the model computes."""
    for name, tensor in tensors.items():
        if not all(end.isfinite() for end in tensor.aminmax()):  # aminmax propagates NaN and makes no copy
            n_broken = int((~tensor.isfinite()).sum())
            raise WeightsError(
                f"The weights are broken: {n_broken:,} of the {tensor.numel():,} values of {named(name)} are NaN "
                "or infinite. Take a checkpoint from before the training went wrong."
            )


@dataclass(frozen=True)
class _Difference:
    missing: list[str]
    extra: list[str]
    misshapen: list[str]

    def sentence(self) -> str:
        parts = [
            f"{kind}: {', '.join(map(named, names[:3]))}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for kind, names in (
                ("missing", self.missing),
                ("not GPT-2's", self.extra),
                ("wrongly shaped", self.misshapen),
            )
            if names
        ]
        return f"The weights do not fit the model ({'; '.join(parts)}): get or save the file again."


def check_tensors(tensors: Mapping[str, Tensor], model: GPTModel) -> None:
    """Raise a `WeightsError` that names the tensors that are missing, extra, or wrongly shaped for `model`."""
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    difference = _Difference(
        missing=sorted(set(expected) - set(found)),
        extra=sorted(set(found) - set(expected)),
        misshapen=[
            f"{name} is {quoted(list(found[name]))} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    )
    if difference.missing or difference.extra or difference.misshapen:
        raise WeightsError(difference.sentence())
