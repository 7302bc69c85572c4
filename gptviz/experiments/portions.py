"""Portions of experiments that need many passes of the model; the caller can decide how to run them."""

from collections.abc import Callable, Sequence
from typing import Any

# (function, the arguments of each call) -> the results. The app runs each call in its own turn and keeps the results.
Run = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]


def run_all(function: Callable[..., Any], portions: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Run the calls one after another."""
    return [function(*portion) for portion in portions]
