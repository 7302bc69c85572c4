"""A recipe: everything that a training run needs to know besides the text."""

import dataclasses
import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import GPTConfig, check_config


class RecipeError(ValueError):
    """A recipe that nothing can be trained by; the message says what to change."""


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. A field of a recipe file has the same name; what a file leaves out is as here."""

    config: GPTConfig
    n_steps: int
    batch_size: int  # windows in a batch
    learning_rate: float  # at its peak
    tied_head: bool = True
    seed: int = 0  # of the weights, the order of the data, the repeated rows, dropout

    # What the batches hold.
    held_out_share: float = 0.1  # of the tokens, for validation, where no text is given for it
    most_frequent_ids: int | None = None  # keep only so many different ids; all other tokens are left out of the text
    shared_row: bool = False  # ids that the text does not have share one embedding row (see gptviz.shared_row)
    random_share: float = 0.0  # of the rows: random ids, repeated with a random period
    passage_share: float = 0.0  # of the rows: a passage of the text is said again
    shortest_period: int = 4  # of a repetition, in tokens
    longest_period: int = 31

    # How the weights are changed.
    optimizer: str = "adamw"  # or "muon": Muon for the blocks' matrices, AdamW for the rest
    weight_decay: float = 0.1
    lora_rank: int = 0  # 0: all weights are trained; else LoRA of that rank beside every matrix but embeddings
    lora_alpha: float = 16.0
    accumulated_batches: int = 1  # batches that make up one step
    clip_norm: float | None = 1.0  # the most that the gradient's length may be
    warmup_steps: int = 0
    decay: str = "constant"  # or "linear" or "cosine": how the learning rate goes down after `constant_share`
    constant_share: float = 0.0  # of the steps, before the decay begins
    final_share: float = 0.0  # of the peak learning rate, at the last step
    precision: str = "float32"  # or "bfloat16", by autocast

    # What is measured and kept.
    measure_every: int = 100  # steps
    held_out_windows: int = 16
    n_checkpoints: int = 20  # at roughly logarithmic steps
    checkpoint_type: str = "float16"  # or "float32"
    prompt: str = "Once upon a time"
    sample_tokens: int = 30

    def __post_init__(self) -> None:
        check_config(self.config)
        _check(self)


def read_recipe(path: Path) -> Recipe:
    """The recipe of a .toml or .json file. Raises `RecipeError`, `ConfigError` or `OSError`."""
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise RecipeError(f"{path.name} cannot be read ({error}): correct it.") from error
    return recipe_from(fields)


def recipe_from(fields: dict[str, Any]) -> Recipe:
    """A recipe from its fields, as `dataclasses.asdict` gives them. Raises `RecipeError` or `ConfigError`."""
    known = {field.name for field in dataclasses.fields(Recipe)}
    needed = {field.name for field in dataclasses.fields(Recipe) if field.default is dataclasses.MISSING}
    if unknown := sorted(set(fields) - known):
        raise RecipeError(f"The recipe has unknown fields: remove {', '.join(unknown)}.")
    if missing := sorted(needed - set(fields)):
        raise RecipeError(f"The recipe lacks {', '.join(missing)}: add it.")
    if not isinstance(fields["config"], dict):
        raise RecipeError("The recipe's config is no table: give the model's seven numbers in it.")
    return Recipe(**fields)


_WORDS = {
    "optimizer": ("adamw", "muon"),
    "decay": ("constant", "linear", "cosine"),
    "precision": ("float32", "bfloat16"),
    "checkpoint_type": ("float16", "float32"),
}
_WHOLE_AT_LEAST = {
    **dict.fromkeys(("seed", "warmup_steps", "sample_tokens", "lora_rank"), 0),
    **dict.fromkeys(("n_steps", "batch_size", "accumulated_batches", "measure_every", "held_out_windows"), 1),
    **dict.fromkeys(("shortest_period", "longest_period"), 1),
    **dict.fromkeys(("n_checkpoints", "most_frequent_ids"), 2),
}
_HIGHEST = {
    **dict.fromkeys(("held_out_share", "random_share", "passage_share", "constant_share", "final_share"), 1.0),
    **dict.fromkeys(("learning_rate", "weight_decay", "clip_norm", "lora_alpha"), math.inf),
}
_MAY_BE_NONE = {"most_frequent_ids", "clip_norm"}


def _check(recipe: Recipe) -> None:
    for name, value in vars(recipe).items():
        if value is not None or name not in _MAY_BE_NONE:
            _check_value(name, value)
    if recipe.random_share + recipe.passage_share > 1:
        raise RecipeError("random_share and passage_share are more than 1 together: make them smaller.")
    if recipe.shortest_period > recipe.longest_period:
        raise RecipeError("shortest_period is above longest_period: exchange them.")
    repeats = recipe.random_share + recipe.passage_share > 0
    if repeats and 2 * recipe.longest_period > recipe.config["context_length"]:
        raise RecipeError("longest_period is over half of context_length, and nothing is said twice: make it smaller.")


def _check_value(name: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _WORDS and value not in _WORDS[name]:
        raise RecipeError(f"{name} is {value!r}: make it {' or '.join(_WORDS[name])}.")
    if name in _WHOLE_AT_LEAST and not (is_number and isinstance(value, int) and value >= _WHOLE_AT_LEAST[name]):
        raise RecipeError(f"{name} is {value!r}: make it a whole number, {_WHOLE_AT_LEAST[name]} or more.")
    if name in _HIGHEST and not (is_number and isinstance(value, int | float) and 0 <= value <= _HIGHEST[name]):
        raise RecipeError(f"{name} is {value!r}: make it a number from 0 to {_HIGHEST[name]:g}.")
    if name in ("tied_head", "shared_row") and not isinstance(value, bool):
        raise RecipeError(f"{name} is {value!r}: make it true or false.")
    if name == "prompt" and not (isinstance(value, str) and value):
        raise RecipeError("The prompt is no text: give the words that samples begin with.")
