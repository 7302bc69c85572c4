"""Conversion of tensors from other libraries' names and layouts to the course's."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .checkpoints import WeightsError
from .quote import named, quoted

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
_WRAPPERS = re.compile(r"^((module|_orig_mod|model|transformer)\.)+|(?<=\.)(_orig_mod|module)\.")
_MASK_BUFFER = re.compile(r"h\.[0-9]+\.attn\.(masked_)?bias|trf_blocks\.[0-9]+\.att\.mask")
_TASK_HEAD = re.compile(r"(score|classifier|qa_outputs)\.(weight|bias)")


def without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove wrappers' prefixes from names: DDP's `module.`, torch.compile's `_orig_mod.`, `model.`, `transformer.`.

    Mask buffers are left out, because they are not weights.
    """
    bare: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = _WRAPPERS.sub("", name)
        if _MASK_BUFFER.fullmatch(short):
            continue
        if short in bare:
            raise WeightsError(
                f"The file holds two tensors that are {named(short)} without what wraps the model: "
                "save one model alone."
            )
        bare[short] = tensor
    return bare


def is_gpt2s(tensors: Iterable[str]) -> bool:
    """Whether these are GPT-2's own names."""
    return "wte.weight" in tensors


def from_gpt2_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert GPT-2's own names and layout to the course's. The tensors are views: nothing is copied."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in _GPT2_NAMES:
            renamed[_GPT2_NAMES[name]] = tensor
            continue
        block = re.fullmatch(r"h\.([0-9]+)\.(.+)", name)
        if not block:
            raise WeightsError(f"The tensor {named(name)} is none of GPT-2's: this is another architecture.")
        prefix, part = f"trf_blocks.{block[1]}", block[2]
        is_matrix = part.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        if part == "attn.c_attn.weight" and tensor.dim() == 2 and tensor.shape[0] == 3 * tensor.shape[1]:
            raise WeightsError(
                f"The tensor {named(name)} is turned, {list(tensor.shape)}, as nanoGPT writes it; nanoGPT computes "
                "with the exact GELU, which GPT-2 does not: choose another model."
            )
        if tensor.dim() != (2 if is_matrix else 1) or ("c_attn" in part and tensor.shape[-1] % 3):
            raise WeightsError(
                f"The tensor {named(name)} is wrongly shaped, {quoted(list(tensor.shape))}: get or save the file again."
            )
        if part in ("attn.c_attn.weight", "attn.c_attn.bias"):
            kind = part.rpartition(".")[2]
            for target, piece in zip(("query", "key", "value"), tensor.chunk(3, dim=-1), strict=True):
                renamed[f"{prefix}.att.W_{target}.{kind}"] = piece.T if kind == "weight" else piece
        elif part in _GPT2_BLOCK_NAMES:
            renamed[f"{prefix}.{_GPT2_BLOCK_NAMES[part]}"] = tensor.T if is_matrix else tensor
        else:
            raise WeightsError(f"The tensor {named(name)} is none of GPT-2's: this is another architecture.")
    return renamed


def without_task_head(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], int | None]:
    """Return a classifier's tensors without its head, and its number of classes (None for a next-token model).

    Classifiers are the course's (chapter 6), with one row per class in `out_head`, and transformers'
    `GPT2ForSequenceClassification` and similar classes.
    """
    head, embedding = tensors.get("out_head.weight"), tensors.get("tok_emb.weight")
    if head is not None and embedding is not None and head.dim() == 2 and 10 * len(head) < len(embedding):
        return {name: tensor for name, tensor in tensors.items() if not name.startswith("out_head.")}, len(head)
    if head is not None or "lm_head.weight" in tensors:
        return tensors, None
    heads = [name for name in tensors if _TASK_HEAD.fullmatch(name)]
    trunk = {name: tensor for name, tensor in tensors.items() if name not in heads}
    n_classes = next((len(tensors[name]) for name in heads if tensors[name].dim() > 0), None)
    return trunk, n_classes


def with_lora_merged(tensors: dict[str, Tensor], scale: float | None) -> dict[str, Tensor]:
    """Merge each of the course's LoRA layers (appendix E) into one matrix: weight + scale (A B)^T, in float32.

    The course's names are `linear.weight` [out, in], `lora.A` [in, rank] and `lora.B` [rank, out]. The scale is not
    stored as a tensor: it is alpha in the book, and alpha / rank in its newer code (Hu et al. 2021).
    """
    layers = [name.removesuffix(".lora.A") for name in tensors if name.endswith(".lora.A")]
    if not layers:
        if scale is not None:
            raise WeightsError("The checkpoint has no LoRA layers: leave lora_scale out.")
        return tensors
    merged = dict(tensors)
    for layer in layers:
        parts = [merged.pop(f"{layer}.{part}", None) for part in ("linear.weight", "lora.A", "lora.B")]
        weight, a, b = (torch.empty(0) if part is None else part for part in parts)
        if not (weight.dim() == a.dim() == b.dim() == 2 and (*a.shape[:1], *b.shape[1:]) == tuple(weight.shape)[::-1]):
            raise WeightsError(f"The LoRA layer {named(layer)} lacks a part, or they do not fit: save the model again.")
        if a.shape[1] != b.shape[0]:
            raise WeightsError(f"The LoRA layer {named(layer)} has parts of two ranks: save the model again.")
        if scale is None:
            raise WeightsError(
                f"The checkpoint has LoRA layers (of rank {b.shape[0]}), and does not say by what they are multiplied: "
                "add it to the path, model.pth?lora_scale=1, with your alpha (in the book) or alpha / rank (in its "
                "newer code)."
            )
        merged[f"{layer}.weight"] = weight.float() + scale * (a.float() @ b.float()).T
        if f"{layer}.linear.bias" in merged:
            merged[f"{layer}.bias"] = merged.pop(f"{layer}.linear.bias")
    return merged
