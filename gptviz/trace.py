"""The trace of one run of the model: its activations as read-only arrays under well-known names."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .cache import ByteCache
from .config import GPTConfig
from .hooks import ACTIVATIONS, PER_LAYER, Change, Key, check_name
from .numerics.ranking import top_ids
from .numerics.sampling import next_token_probabilities
from .tokens import Tokens, strings_of

if TYPE_CHECKING:
    from .engine import Engine
    from .interventions import Part
    from .parameters import Weights

Array = NDArray[np.float32]

# Quadratic in the text's length, or vocab_size wide, and so derived one at a time. A block's
# other activations are small, and are derived together in one run of that block.
_LARGE = frozenset({"attn_scores", "pattern", "logits"})
_SMALL_OF_BLOCK = tuple(name for name in ACTIVATIONS if name in PER_LAYER - _LARGE - {"resid_pre", "resid_post"})
_TOKEN_BYTES = 200  # a token's id, bytes and string, each a Python object


class Trace:
    """The run of one text. `trace["embed"]` or `trace["pattern", 3]` is a read-only float32 array.

    Only the residual stream at the block borders and the last position's logits are kept;
    the rest is derived on demand and held within a byte budget. Names and shapes are those of
    `gptviz.hooks.ACTIVATIONS`, without the batch axis.
    """

    def __init__(
        self,
        engine: "Engine",
        tokens: Tokens,
        stream: Sequence[Array],
        last_logits: Array,
        *,
        kept: Mapping[Key, Array] | None = None,
        off: "Sequence[Part]" = (),
        means_of: Hashable = None,
        changes: Mapping[Key, Change] | None = None,
    ) -> None:
        """`stream` is the residual stream before each block and after the last: n_layers + 1 arrays [pos, emb_dim].

        `off` are the parts that were switched off in the run, set to zero, or to their means in the
        run whose key is `means_of`.
        `changes` are the changes that did so; they also apply to everything that is derived from this trace later.
        """
        self.engine = engine
        self.tokens = tokens
        self.config: GPTConfig = engine.config
        self.off = tuple(off)
        self.means_of = means_of
        self.changes = dict(changes or {})
        self._stream = tuple(stream)
        self._last_logits = last_logits
        self._kept = dict(kept or {})
        # Make room for the activations of any one block. Its small activations take 17 times
        # its stream, and its pattern is [head, query, key]. A trace of GPT-2 small stays below
        # 10 MB at 64 tokens, and below 120 MB at 1,024.
        stream_bytes = sum(array.nbytes for array in self._stream)
        block_bytes = 4 * len(tokens) * max(17 * self.config["emb_dim"], self.config["n_heads"] * len(tokens))
        self._derived: ByteCache[Any] = ByteCache(max(2_000_000, int(1.8 * stream_bytes), block_bytes), _bytes_of)

    @property
    def weights(self) -> "Weights":
        """The parameters of the model that made this trace."""
        return self.engine.weights

    @property
    def max_bytes(self) -> int:
        """The most bytes that this trace can ever hold."""
        fixed = (*self._stream, self._last_logits, *self._kept.values())
        return sum(array.nbytes for array in fixed) + self._derived.max_bytes + _TOKEN_BYTES * len(self)

    @property
    def key(self) -> Hashable:
        """What was run: equal for two traces of one engine that hold the same numbers."""
        return self.tokens.key, self.off, self.means_of

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, key: str | tuple[str, int]) -> Array:
        name, layer = self._checked(key)
        if layer is not None and name == "resid_pre":
            return self._stream[layer]
        if layer is not None and name == "resid_post":
            return self._stream[layer + 1]
        if (name, layer) in self._kept:
            return self._kept[name, layer]
        if name == "logits":
            return self.logits_at(slice(None))
        group = _SMALL_OF_BLOCK if name in _SMALL_OF_BLOCK else (name,)
        source = self._source(name, layer)
        return self._derived.get((group, layer), lambda: self._derive(group, layer, source))[name]

    def _source(self, name: str, layer: int | None) -> NDArray[Any]:
        """Return the input of the part of the model that contains the activation."""
        if layer is not None:
            return self._stream[layer]
        return np.array(self.tokens.ids) if name in ("embed", "pos_embed") else self._stream[-1]

    def _checked(self, key: str | tuple[str, int]) -> Key:
        if not isinstance(key, str) and not (isinstance(key, tuple) and len(key) == 2):
            raise KeyError(f"{key!r} is no name: ask for trace[name] or trace[name, layer].")
        name, layer = (key, None) if isinstance(key, str) else key
        check_name(name)
        layers = self.config["n_layers"]
        if name in PER_LAYER and layer not in range(layers):
            raise KeyError(
                f"{name!r} is there once a layer: ask for trace[{name!r}, 0] to trace[{name!r}, {layers - 1}]."
            )
        if name not in PER_LAYER and layer is not None:
            raise KeyError(f"{name!r} is there once, not once a layer: ask for trace[{name!r}].")
        return name, layer

    def logits_at(self, positions: int | slice) -> Array:
        """Return the logits at one position [vocab_size], or at a slice of positions [pos, vocab_size].

        `trace["logits"]` is all of them, at 200 kB per token, so ask only for what you show. Slices
        are not held; single positions are. Raises `IndexError` past the text's end.
        """
        if ("logits", None) in self._kept:
            return self._kept["logits", None][positions]
        if isinstance(positions, slice):
            return self.unembed(self._stream[-1][positions])
        position = range(len(self))[positions]
        if position == len(self) - 1:
            return self._last_logits
        row = slice(position, position + 1)
        return self._derived.get(("logits", position), lambda: self.unembed(self._stream[-1][row])[0])

    def unembed(self, stream: NDArray[Any]) -> Array:
        """Apply the final norm and the output head: any stream [pos, emb_dim] -> logits [pos, vocab_size]."""
        return self.engine.unembed(stream)

    def resume(self, variants: Mapping[Key, NDArray[Any]]) -> Array:
        """Continue from streams other than this run's own, with the same parts switched off (see `Engine.resume`)."""
        return self.engine.resume(variants, self.changes)

    def _derive(self, names: Sequence[str], layer: int | None, source: NDArray[Any]) -> Mapping[str, Array]:
        changes = {key: change for key, change in self.changes.items() if key[1] == layer}
        return self.engine.derive(names, layer, source, changes)

    def top_k(self, position: int = -1, k: int = 10, temperature: float = 1.0) -> pd.DataFrame:
        """Return the k most probable next tokens after `position`, one row per token, the most probable first.

        Columns: token (as `display` shows it), id, logit (the model's own, not divided by the
        temperature), probability (over the whole vocabulary).
        """
        logits = self.logits_at(position)
        probabilities = next_token_probabilities(logits, temperature=temperature)
        ids = top_ids(logits, k)
        return pd.DataFrame(
            {"token": strings_of(ids), "id": ids, "logit": logits[ids], "probability": probabilities[ids]}
        )


def _bytes_of(_key: object, value: Any) -> int:
    arrays = value.values() if isinstance(value, Mapping) else [value]
    return sum(array.nbytes for array in arrays)
