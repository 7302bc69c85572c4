"""Parts of the model that can be switched off, and what replaces their output."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .config import GPTConfig
from .hooks import Change, Key

# A part's kind -> the activation that is changed to switch it off (see `gptviz.hooks`).
_HANDS_ON = {
    "head": "z",
    "attention": "attn_out",
    "mlp": "mlp_out",
    "neuron": "post",
    "shortcut1": "shortcut1",
    "shortcut2": "shortcut2",
}
_LETTERS = {"H": "head", "N": "neuron"}
_WORD = re.compile(r"L(\d{1,6})(?:([HN])(\d{1,6})|(attention|mlp|shortcut1|shortcut2))")
Mean = Callable[[str, int], NDArray[Any]]  # activation, layer -> its mean over positions, heads joined: [features]


class Part(NamedTuple):
    """One part of a block.

    A head is switched off at z, before the output projection mixes the heads (TransformerLens: `hook_z`), and a
    neuron after its GELU. With a shortcut switched off, only its sub-layer's output passes on.
    """

    kind: str  # head, attention, mlp, neuron, shortcut1 (past attention), shortcut2 (past the MLP)
    layer: int
    number: int | None = None  # of the head or neuron

    def __str__(self) -> str:
        """Return the part's short name, such as `L2H5`, `L2N17`, `L2attention`, `L2mlp` or `L2shortcut1`."""
        letter = next((letter for letter, kind in _LETTERS.items() if kind == self.kind), None)
        return f"L{self.layer}{self.kind}" if letter is None else f"L{self.layer}{letter}{self.number}"

    @classmethod
    def parse(cls, word: str) -> "Part":
        """Return the part with this short name; the inverse of `str`. Raises `ValueError`."""
        match = _WORD.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is no part of a model: L2H5, L2N17, L2attention, L2mlp and L2shortcut1 are.")
        if match[4]:
            return cls(match[4], int(match[1]))
        return cls(_LETTERS[match[2]], int(match[1]), int(match[3]))

    def is_in(self, config: GPTConfig) -> bool:
        """Whether a model of this shape has the part."""
        how_many = {"head": config["n_heads"], "neuron": 4 * config["emb_dim"]}.get(self.kind)
        number_fits = self.number is None if how_many is None else self.number in range(how_many)
        return self.kind in _HANDS_ON and self.layer in range(config["n_layers"]) and number_fits

    def columns(self, config: GPTConfig) -> slice:
        """Return the part's columns in the last axis of its activation, with heads joined."""
        if self.number is None:
            return slice(None)
        width = config["emb_dim"] // config["n_heads"] if self.kind == "head" else 1
        return slice(self.number * width, (self.number + 1) * width)


def switched_off(parts: Iterable[Part], config: GPTConfig, mean: Mean | None = None) -> dict[Key, Change]:
    """Return the changes that switch `parts` off: the output of each becomes 0 or, with `mean`, its mean.

    A shortcut always becomes 0, because its mean would contain the stream itself. Raises
    `ValueError` for a part that the model does not have.
    """
    columns: dict[tuple[str, int], list[slice]] = {}
    for part in parts:
        if not part.is_in(config):
            raise ValueError(
                f"The model has no {part}: it has {config['n_layers']} layers of {config['n_heads']} heads."
            )
        columns.setdefault((_HANDS_ON[part.kind], part.layer), []).append(part.columns(config))
    changes: dict[Key, Change] = {}
    for (name, layer), places in columns.items():
        has_mean = mean is not None and not name.startswith("shortcut")
        changes[name, layer] = _overwrite(places, torch.tensor(mean(name, layer)) if mean and has_mean else None)
    return changes


def _overwrite(columns: list[slice], fill: Tensor | None) -> Change:
    def change(value: Tensor) -> Tensor:
        value = value.clone()
        for place in columns:
            value[..., place] = 0 if fill is None else fill[place].to(value)
        return value

    return change


def dropout(rate: float, seeds: Iterable[tuple[int, int]]) -> Change:
    """Return dropout as in the course, with a separate draw for each (seed, run), one per example of the batch.

    Each number becomes 0 with probability `rate`, and the others are divided by 1 - `rate`, so that
    the mean over many draws is the number itself (Srivastava et al. 2014). Each call continues the
    sequence of draws, so make one change per forward pass, and share it among its places.
    """
    # torch's generator uses 32 bits of a seed, so NumPy mixes both numbers into them.
    mixed = [int(np.random.SeedSequence(pair).generate_state(1)[0]) for pair in seeds]
    generators = [torch.Generator().manual_seed(seed) for seed in mixed]

    def change(value: Tensor) -> Tensor:
        kept = [torch.rand(value.shape[1:], generator=generator) >= rate for generator in generators]
        return value * torch.stack(kept).to(value) / (1 - rate)

    return change
