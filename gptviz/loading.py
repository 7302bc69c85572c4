"""Loading a model by its name or from a path, ready to run texts."""

from functools import partial
from pathlib import Path

import torch

from . import hub
from .catalog import MODELS
from .checkpoints import WeightsError, exists
from .engine import Engine
from .weights import Source, check_finite, check_heads, load_model, read_source, untrained_model


class NotDownloadedError(RuntimeError):
    """A hub model is not on this machine yet, and downloading was not allowed."""


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    seed: int = 0,
    n_heads: int | None = None,
    lora_scale: float | None = None,
    progress: hub.Progress | None = None,
    allow_download: bool = True,
) -> Engine:
    """Load a model by its name (see `gptviz.MODELS`) or from a path, ready to run texts.

    A path is a folder in Hugging Face form, a safetensors file, or a checkpoint (.pth, .pt,
    .bin). If a checkpoint of the course does not store its `n_heads` or the `lora_scale` of its
    LoRA layers, they can also follow the path: `model.pth?n_heads=4`. If no number of heads is
    known, the engine's `notes` say which one was assumed. A hub model that is not on this machine
    is downloaded first, and `progress(bytes so far, total bytes)` is called meanwhile. `seed` is
    for `untrained`. `device` defaults to CUDA if available, otherwise the CPU.

    Raises `WeightsError`, `gptviz.hub.DownloadError`, or `NotDownloadedError`.
    """
    name = str(name_or_path)
    if name == "untrained":
        config = MODELS[name].config
        check_heads(config["n_heads"], n_heads)
        return Engine(untrained_model(config, seed), config, name=name, device=device)
    source = _source_of(name, progress, allow_download)
    model, checkpoint = load_model(
        source.path,
        n_heads=n_heads or source.n_heads,
        lora_scale=source.lora_scale if lora_scale is None else lora_scale,
        mapped=name in MODELS,
    )
    if name in MODELS and MODELS[name].repo:
        hub.look_through_once(source.path, partial(check_finite, checkpoint.tensors))
    return Engine(
        model,
        checkpoint.config,
        name=name,
        notes=checkpoint.notes,
        path=source.path,
        n_heads_guessed=checkpoint.n_heads_guessed,
        device=device,
    )


def _source_of(name: str, progress: hub.Progress | None, allow_download: bool) -> Source:
    known = MODELS.get(name)
    if known is None:
        source = read_source(name)
        if not exists(source.path):
            raise WeightsError(f"{name[:200]!r} is no known model and no path: known are {', '.join(MODELS)}.")
        return source
    if known.folder is not None:
        return Source(known.folder)
    assert known.repo is not None, "a named model has a folder, a repository, or is 'untrained'"
    cached = hub.cached_folder(known.repo)
    if cached is None and not allow_download:
        raise NotDownloadedError(f"{known.title} is not on this machine yet: download it first.")
    return Source(cached or hub.download(known.repo, progress))
