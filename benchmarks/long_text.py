"""Another head of a text of 1,024 tokens, on the untrained model of GPT-2 small's shape: see `redraw`."""

from benchmarks.redraw import run_long as run

__all__ = ["run"]
