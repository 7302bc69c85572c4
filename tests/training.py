"""What the tests of training share: a tiny recipe, and a text that is quickly made."""

import numpy as np

from gptviz.config import GPTConfig
from gptviz.training import Recipe, text_data

CONFIG = GPTConfig(
    vocab_size=50257, context_length=16, emb_dim=16, n_heads=2, n_layers=2, drop_rate=0.0, qkv_bias=False
)
WORDS = (
    "the",
    "a",
    "cat",
    "dog",
    "king",
    "hat",
    "red",
    "old",
    "had",
    "saw",
    "and",
    "was",
    "in",
    "on",
    "said",
    "little",
)


def some_text(n_words=3000, seed=0):
    random = np.random.default_rng(seed)
    return "".join(f" {WORDS[place]}" for place in random.integers(0, len(WORDS), n_words))


def tiny_recipe(config=None, **changes):
    settings = {
        "config": GPTConfig(**{**CONFIG, **(config or {})}),
        "n_steps": 20,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "most_frequent_ids": 500,
        "shared_row": True,
        "longest_period": 8,
        "measure_every": 5,
        "held_out_windows": 4,
        "n_checkpoints": 4,
        "checkpoint_type": "float32",
        "sample_tokens": 4,
    }
    return Recipe(**(settings | changes))


def tiny_data(recipe=None, **changes):
    return text_data(some_text(), recipe or tiny_recipe(**changes))
