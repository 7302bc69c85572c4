"""Recipes that come with the library."""

from dataclasses import replace

from ..config import GPTConfig
from .recipe import Recipe

# Two layers in which a previous-token head and then an induction head form within a minute or two on two cores. Few
# ids make the softmax small, and a third of the rows can only be foreseen by looking up what followed the last time.
LIVE = Recipe(
    config=GPTConfig(
        vocab_size=50257, context_length=64, emb_dim=64, n_heads=4, n_layers=2, drop_rate=0.0, qkv_bias=False
    ),
    n_steps=1200,
    batch_size=32,
    learning_rate=5e-3,
    most_frequent_ids=2000,
    shared_row=True,
    random_share=0.3,
    optimizer="muon",
    warmup_steps=50,
    measure_every=50,
    n_checkpoints=40,
)
LIVE_ONE_LAYER = replace(
    LIVE, config=GPTConfig(**{**LIVE.config, "n_layers": 1})
)  # in which no induction head can form

PRESETS = {"live": LIVE, "live-one-layer": LIVE_ONE_LAYER}
