"""A training run as a folder, which is whole at any moment: measurements, checkpoints, and what is needed to go on.

docs/training.md describes the files.
"""

import dataclasses
import io
import json
import os
import pickle
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout

from ..config import GPTConfig
from ..model import GPTModel, MultiHeadAttention
from ..version import __version__
from ..weights import untrained_model
from .checkpoints import model_file, whole_model
from .data import TextData
from .loop import Interval, State, start, train
from .lora import add_lora, merge_lora
from .measure import KINDS, in_context_score, repetitions, sample, token_losses
from .recipe import Recipe, RecipeError, recipe_from

FORMAT = 1
Row = dict[str, Any]  # one measurement, with docs/training.md's columns


class RunError(ValueError):
    """A run's folder that cannot be used as asked; the message says what to do."""


class Run:
    """A training run in its folder. One process at a time trains it; any may read."""

    def __init__(self, folder: Path) -> None:
        """Open a run that is there. Raises `RunError`, and `RecipeError` or `ConfigError` for a wrong recipe."""
        self.folder = folder
        try:
            self.about: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            has_this_format = self.about["format"] == FORMAT
            fields = self.about["recipe"]
        except FileNotFoundError as error:
            raise RunError(f"There is no run in {folder.name}: check the path, or start one.") from error
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"The run.json of {folder.name} is damaged: start a new run in another folder.") from error
        if not has_this_format:
            raise RunError(f"The run in {folder.name} has another format: use the gptviz that made it.")
        self.recipe = recipe_from(fields)

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, data: TextData, model: GPTModel | None = None) -> "Run":
        """Begin a run in a folder that is new or empty. `model` is what it starts from, instead of random weights.

        Raises `RunError`, or `RecipeError` where the model does not fit the recipe.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder.name} is not empty: take another folder, or go on with --resume.")
        state = start(first_model(recipe, data, model), recipe)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "recipe": dataclasses.asdict(recipe),
            "data": data.facts._asdict(),
            "starts_from": "random weights" if model is None else "a trained model",
            "versions": {
                "gptviz": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "threads": torch.get_num_threads(),
        }
        write_file(folder / "state.pt", _state_file(state))
        write_file(folder / "run.json", json.dumps(about, indent=1).encode())
        return cls(folder)

    def train(self, data: TextData, *, device: str = "cpu") -> Iterator[Row]:
        """Train from where the run stands to its end, and give each measurement once it is on the disk.

        The first is that of the weights before any step. Whoever asks for no more measurements stops the training, and
        nothing is lost. Raises `RunError` for other data than the run's, for a run that another process trains, and
        where a file cannot be written; `DivergedError` for a loss that is no number.
        """
        if self.about["data"]["sha256"] != data.facts.sha256:
            raise RunError("The text is not the one that the run was started with: give that one, or start a new run.")
        try:
            with FileLock(self.folder / "lock", blocking=False, thread_local=False):
                yield from self._train(data, device)
        except Timeout as error:
            raise RunError(f"Another process trains the run in {self.folder.name}: wait for it, or stop it.") from error

    def _train(self, data: TextData, device: str) -> Iterator[Row]:
        state = self._read_state(data, device)
        # Rows after the state were written just before the run ended: they are measured again.
        rows = [row for row in self._rows() if row["step"] <= state.step]
        if not rows:
            yield self._keep(rows, state, data, None)
        for interval in train(state, data, self.recipe, stops(self.recipe)):
            yield self._keep(rows, state, data, interval)

    def _keep(self, rows: list[Row], state: State, data: TextData, interval: Interval | None) -> Row:
        """Measure, and write all files. The state comes last: a run goes on from it, so the rest must be there."""
        rows.append(measure(state, data, self.recipe, interval))
        if state.step in checkpoint_steps(self.recipe):
            model = merge_lora(state.model)
            content = model_file(model, self.recipe.config, data.shared_row, self.recipe.checkpoint_type)
            write_file(self.folder / "checkpoints" / f"step-{state.step:07d}.safetensors", content)
        table = pa.Table.from_pylist(rows, schema=_schema(list(state.groups)))
        pq.write_table(table, content := pa.BufferOutputStream())
        write_file(self.folder / "steps.parquet", content.getvalue().to_pybytes())
        write_file(self.folder / "state.pt", _state_file(state))
        return rows[-1]

    def steps(self) -> pd.DataFrame:
        """All measurements so far, one a row, in the columns of docs/training.md; empty before the first."""
        return pd.DataFrame(self._rows())

    def checkpoints(self) -> dict[int, Path]:
        """Steps done -> the path of that checkpoint, which `gptviz.load` takes; rising."""
        found = sorted((self.folder / "checkpoints").glob("step-*.safetensors"))
        return {int(path.stem.removeprefix("step-")): path for path in found}

    def _rows(self) -> list[Row]:
        path = self.folder / "steps.parquet"
        try:
            return pq.read_table(path).to_pylist() if path.exists() else []
        except (OSError, pa.ArrowException) as error:
            raise RunError(f"{path.name} of {self.folder.name} is damaged: start a new run.") from error

    def _read_state(self, data: TextData, device: str) -> State:
        path = self.folder / "state.pt"
        state = start(first_model(self.recipe, data).to(device), self.recipe, data.shared_row)
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            state.model.load_state_dict(saved["model"])
            for optimizer, values in zip(state.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(values)
            state.random |= {kind: saved["random"][kind] for kind in state.random.keys() & saved["random"]}
            state.step, state.tokens_seen = saved["step"], saved["tokens_seen"]
        except FileNotFoundError as error:
            raise RunError(
                f"The run in {self.folder.name} has no state.pt, so it cannot go on: start a new one."
            ) from error
        except (pickle.UnpicklingError, OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{path.name} of {self.folder.name} is damaged: start a new run.") from error
        return state


def first_model(recipe: Recipe, data: TextData, model: GPTModel | None = None) -> GPTModel:
    """The model before the first step: a copy of `model`, or random weights from the seed.

    All of it is trainable, or where the recipe has a `lora_rank` LoRA alone. Raises `RecipeError`.
    """
    n_rows = recipe.config["vocab_size"] if data.shared_row is None else data.shared_row.n_rows
    config = GPTConfig(**{**recipe.config, "vocab_size": n_rows})
    first = untrained_model(config, recipe.seed, tied_head=recipe.tied_head)
    if model is not None:
        if recipe.shared_row:
            raise RecipeError("A trained model has a row for every id: set shared_row to false.")
        if _shape(model) != _shape(first):
            raise RecipeError("The model is not of the shape in the recipe: take over its config and its tied_head.")
        first.load_state_dict(model.state_dict())
    first.requires_grad_(True)
    if recipe.lora_rank:
        add_lora(first, recipe.lora_rank, recipe.lora_alpha, seed=recipe.seed)
    return first


def _shape(model: GPTModel) -> tuple[object, ...]:
    heads = [module.n_heads for module in model.modules() if isinstance(module, MultiHeadAttention)]
    return {name: tensor.shape for name, tensor in model.state_dict().items()}, model.tied_head, heads


def measure(state: State, data: TextData, recipe: Recipe, interval: Interval | None) -> Row:
    """One row of steps.parquet: what happened on the way (nothing before the first step), and what the model can do."""
    repeated = repetitions(state, data.words, seed=recipe.seed)
    losses = token_losses(state, data.held_out())
    nothing: dict[str, float] = {}
    return {
        "step": state.step,
        "tokens_seen": state.tokens_seen,
        "training_loss": interval and interval.training_loss,
        "held_out_loss": float(np.nanmean(losses)),
        "in_context_score": in_context_score(losses),
        "repeated_loss": repeated.second_loss,
        "learning_rate": interval and interval.learning_rate,
        "tokens_per_second": interval and interval.tokens_per_second,
        "gradient_norm": interval and interval.gradient_norm,
        **{
            f"gradient_norm.{name}": (interval.gradient_norms if interval else nothing).get(name)
            for name in state.groups
        },
        **{
            f"update_ratio.{name}": (interval.update_ratios if interval else nothing).get(name) for name in state.groups
        },
        **{kind: scores.tolist() for kind, scores in repeated.scores.items()},
        "sample": _sample(state, data, recipe),
    }


def _sample(state: State, data: TextData, recipe: Recipe) -> str:
    model = whole_model(merge_lora(state.model), recipe.config, data.shared_row)
    return sample(model, recipe.config, recipe.prompt, recipe.sample_tokens, seed=recipe.seed)


def _schema(groups: list[str]) -> pa.Schema:
    numbers = [
        "training_loss", "held_out_loss", "in_context_score", "repeated_loss", "learning_rate", "tokens_per_second",
        "gradient_norm", *(f"{length}.{group}" for length in ("gradient_norm", "update_ratio") for group in groups),
    ]  # fmt: skip
    by_head = pa.list_(pa.list_(pa.float64()))  # [layer][head]
    return pa.schema(
        [("step", pa.int64()), ("tokens_seen", pa.int64())]
        + [(name, pa.float64()) for name in numbers]
        + [(kind, by_head) for kind in KINDS]
        + [("sample", pa.string())]
    )


def stops(recipe: Recipe) -> list[int]:
    """The steps after which is measured, rising: every `measure_every`, each checkpoint's, and the last."""
    return sorted({*range(recipe.measure_every, recipe.n_steps, recipe.measure_every), *checkpoint_steps(recipe)} - {0})


def checkpoint_steps(recipe: Recipe) -> set[int]:
    """The steps after which a checkpoint is kept: the first and last, and between them roughly logarithmic ones.

    They are evenly apart on a logarithmic scale that begins at a tenth of the run: near even in the first tenth.
    """
    begin = recipe.n_steps / 10
    places = np.geomspace(begin, recipe.n_steps + begin, recipe.n_checkpoints) - begin
    return {*places.round().astype(int).tolist(), 0, recipe.n_steps}


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file or none: beside the old one, to the disk, and then in its place. Raises `RunError`."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _synchronise(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunError(
            f"{path.name} cannot be written ({error.strerror}): make room, and go on with --resume."
        ) from error


def _synchronise(folder: Path) -> None:
    """Without it a power cut could undo a rename and keep a later one. Windows has no such call."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _state_file(state: State) -> bytes:
    saved = {
        "step": state.step,
        "tokens_seen": state.tokens_seen,
        "model": state.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "random": state.random,
    }
    torch.save(saved, content := io.BytesIO())
    return content.getvalue()
