"""A model in training -> a file that `gptviz.load` reads."""

import json

import safetensors.torch
import torch
from torch import Tensor

from ..config import GPTConfig
from ..model import GPTModel
from ..shared_row import SharedRow
from ..weights import model_without_values, with_values

TYPES = {"float16": torch.float16, "float32": torch.float32}


def model_file(model: GPTModel, config: GPTConfig, shared_row: SharedRow | None, type_name: str) -> bytes:
    """A safetensors file with the course's names, its config in the metadata, and the ids that have a row of their own.

    `config` is the whole model's; of a tied head only the embedding is written. `type_name` is one of `TYPES`.
    """
    tensors = {name: tensor.to("cpu", TYPES[type_name]).contiguous() for name, tensor in _tensors(model).items()}
    metadata = {"config": json.dumps(config)}
    if shared_row is not None:
        metadata["token_ids"] = json.dumps(shared_row.ids.tolist(), separators=(",", ":"))
    return safetensors.torch.save(tensors, metadata)


def whole_model(model: GPTModel, config: GPTConfig, shared_row: SharedRow | None) -> GPTModel:
    """A second model on the same values, to look at: the first one stays trainable. Every id has its own row."""
    tensors = _tensors(model)
    if shared_row is not None:
        for name in {"tok_emb.weight", "out_head.weight"} & set(tensors):
            tensors[name] = shared_row.write_out(tensors[name])
    return with_values(model_without_values(config, tied_head=model.tied_head), tensors)


def _tensors(model: GPTModel) -> dict[str, Tensor]:
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.tied_head:
        del tensors["out_head.weight"]
    return tensors
