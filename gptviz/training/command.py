"""`python -m gptviz train`: train a model on a text, with a progress bar, and go on with a run that was stopped."""

import argparse
import dataclasses
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from tqdm import tqdm

from ..weights import load_model
from .data import DataError, TextData, read_text, text_data
from .loop import DivergedError
from .presets import PRESETS
from .recipe import Recipe, RecipeError, read_recipe
from .run import Row, Run, RunError

STOPPED = "Stopped: the run is kept up to the last measurement. Go on with --resume in place of --config."
ERRORS = (RecipeError, DataError, RunError, DivergedError)


class _Stopped(BaseException):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def train(options: argparse.Namespace) -> int:
    """Run the command; give back the exit status: 0, 2 for an error, 128 + the number of the signal that stopped it."""
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise RunError("PyTorch finds no CUDA device: leave --device out.")
        run, data = _run_and_data(options)
        _follow(run, data, options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except ERRORS as error:
        print(f"gptviz: {error}", file=sys.stderr)
        return 2
    except _Stopped as stopped:
        print(
            "Stopped: the run is kept up to the last measurement. Go on with --resume in place of --config.",
            file=sys.stderr,
        )
        return 128 + stopped.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def _run_and_data(options: argparse.Namespace) -> tuple[Run, TextData]:
    held_out = read_text(options.held_out) if options.held_out else None
    if options.resume:
        if any(option is not None for option in (options.config, options.steps, options.seed, options.start)):
            raise RunError("A run goes on by its own recipe: leave out --config, --steps, --seed and --from.")
        run = Run(options.out)
        return run, text_data(read_text(options.text), run.recipe, held_out)
    if not options.config:
        raise RecipeError(f"No recipe is given: add --config with {', '.join(PRESETS)}, or a file.")
    recipe = _recipe(options)
    data = text_data(read_text(options.text), recipe, held_out)
    model = load_model(options.start)[0] if options.start else None
    return Run.create(options.out, recipe, data, model), data


def _recipe(options: argparse.Namespace) -> Recipe:
    recipe = PRESETS.get(options.config) or read_recipe(Path(options.config))
    changes = {"n_steps": options.steps, "seed": options.seed}
    return dataclasses.replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def _follow(run: Run, data: TextData, device: str) -> None:
    facts = data.facts
    print(
        f"{facts.n_training_tokens:,} tokens, {facts.n_held_out_tokens:,} held out. Losses in nats a token: "
        f"guessing {facts.guessing:.2f}, unigram {facts.unigram_entropy:.2f}, bigram {facts.bigram_entropy:.2f}."
    )
    with tqdm(total=run.recipe.n_steps, unit="step", file=sys.stderr) as bar:
        for row in run.train(data, device=device):
            bar.update(row["step"] - bar.n)
            bar.write(_line(row))


def _line(row: Row) -> str:
    loss = "" if row["training_loss"] is None else f"loss {row['training_loss']:.3f}  "
    scores = "  ".join(
        f"{kind.replace('_', ' ')} {max(max(layer) for layer in row[kind]):.2f}"
        for kind in ("previous_token", "induction")
    )
    return f"step {row['step']:>6,}  {loss}held out {row['held_out_loss']:.3f}  {scores}"
