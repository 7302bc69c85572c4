"""Experiments that need many passes of the model are cut into portions; a caller may decide how these are run."""

from collections.abc import Callable, Sequence
from typing import Any

# (function, the arguments of each call) -> the results. The app runs each call in a turn of its own, and keeps the
# results.
Run = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]


def run_all(function: Callable[..., Any], portions: Sequence[tuple[Any, ...]]) -> list[Any]:
    """One call after another."""
    return [function(*portion) for portion in portions]
