"""The view that a page shows: a model and a text, their trace, and the results computed from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import streamlit as st

import gptviz
from gptviz.config import GPTConfig
from gptviz.interventions import Part
from gptviz.tokens import Tokens
from gptviz.trace import Trace
from gptviz.ui import models
from gptviz.ui.models import LoadedModel

Result = TypeVar("Result")


@dataclass(frozen=True)
class View:
    """A model and a text's tokens.

    It holds the model's name but no trace. Streamlit keeps a fragment's arguments as long as its tab is open, and would
    keep everything that they hold in memory.
    """

    model_name: str
    tokens: Tokens
    n_heads: int = 0  # the user's choice, if the model's file does not say; 0: no choice
    is_untrained: bool = False  # whether it is the model's untrained twin: same shape, random weights

    @property
    def model(self) -> LoadedModel:
        """The model, loaded again if it was dropped from memory."""
        load = models.untrained_twin if self.is_untrained else models.loaded
        return load(self.model_name, self.n_heads)

    @property
    def engine(self) -> gptviz.Engine:
        """The model's engine."""
        return self.model.engine

    @property
    def config(self) -> GPTConfig:
        """The model's shape."""
        return self.model.engine.config

    @property
    def strings(self) -> tuple[str, ...]:
        """The tokens as shown on the page."""
        return self.tokens.strings

    def trace(self, off: tuple[Part, ...] = (), *, by_mean: bool = False) -> Trace:
        """Return the trace of these tokens, with the parts `off` set to 0 or to their means (`by_mean`)."""
        model = self.model
        known = None if off else model.traces.peek(self.tokens.ids)
        if known is not None:  # a spinner costs browser time even if nobody sees it
            return known
        with st.spinner(f"Running {len(self.tokens):,} tokens through the model…"):
            return model.trace(self.tokens, off, by_mean=by_mean)

    def computed(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Return `function(*arguments, **options)`, computed once for everybody who asks for the same.

        The function must be defined at module level, and its arguments must be traces, tokens, or values that can be
        compared.
        """
        return self.model.computed(function, *arguments, **options)

    def known(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result | None:
        """Return what `computed` would return, or None if nobody has asked for it lately."""
        return self.model.known(function, *arguments, **options)

    def run_portions(self, function: Callable[..., Result], portions: Sequence[tuple[Any, ...]]) -> list[Result]:
        """Run an experiment's portions, each in its own turn: see `gptviz.experiments.portions`."""
        return [self.computed(function, *portion) for portion in portions]
