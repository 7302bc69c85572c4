"""Train a GPT: text -> batches -> loop -> measurements and checkpoints in a folder. See docs/training.md."""

from .data import DataError, TextData, read_text, text_data
from .loop import DivergedError, train
from .presets import PRESETS
from .recipe import Recipe, RecipeError, read_recipe
from .run import Run, RunError

__all__ = [
    "PRESETS",
    "DataError",
    "DivergedError",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "TextData",
    "read_recipe",
    "read_text",
    "text_data",
    "train",
]
