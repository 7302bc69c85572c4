"""A model's parameters as read-only NumPy arrays: by the course's names, and by role, layer and head."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .config import GPTConfig

Array = NDArray[np.float32]


class Norm(NamedTuple):
    """The learned parameters of a LayerNorm, [emb_dim] each."""

    gain: Array
    bias: Array


class Weights:
    """`weights["trf_blocks.0.att.W_query.weight"]` is one parameter; `weights.w_q(0)` is the same split by head.

    The roles are named as in the literature (Elhage et al. 2021, "A Mathematical Framework for Transformer
    Circuits"). The last axis of every matrix is that of the residual stream, emb_dim. On the CPU all arrays are
    views of the model's own memory.
    """

    def __init__(self, config: GPTConfig, names: Sequence[str], read: Callable[[str], Array]) -> None:
        """`names` are the course's; `read` returns the read-only array for one of them, [out, in] for a matrix."""
        self._config = config
        self._names = tuple(names)
        self._read = read

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(f"{name!r} is no parameter of this model; known are: {', '.join(self._names)}.")
        return self._read(name)

    # --- embeddings and output head ------------------------------------------------------------

    @property
    def w_e(self) -> Array:
        """The token embedding: [vocab_size, emb_dim]."""
        return self["tok_emb.weight"]

    @property
    def w_pos(self) -> Array:
        """The positional embedding: [context_length, emb_dim]."""
        return self["pos_emb.weight"]

    @property
    def w_u(self) -> Array:
        """The output head, one row per token of the vocabulary: [vocab_size, emb_dim]. It has no bias."""
        return self["out_head.weight"]

    # --- attention -----------------------------------------------------------------------------

    def w_q(self, layer: int) -> Array:
        """The query matrices: [head, head_dim, emb_dim]."""
        return self._by_head(f"trf_blocks.{layer}.att.W_query.weight")

    def w_k(self, layer: int) -> Array:
        """The key matrices: [head, head_dim, emb_dim]."""
        return self._by_head(f"trf_blocks.{layer}.att.W_key.weight")

    def w_v(self, layer: int) -> Array:
        """The value matrices: [head, head_dim, emb_dim]."""
        return self._by_head(f"trf_blocks.{layer}.att.W_value.weight")

    def b_q(self, layer: int) -> Array | None:
        """The query biases: [head, head_dim], or None if the model has none."""
        return self._by_head(f"trf_blocks.{layer}.att.W_query.bias") if self._config["qkv_bias"] else None

    def b_k(self, layer: int) -> Array | None:
        """The key biases: [head, head_dim], or None if the model has none."""
        return self._by_head(f"trf_blocks.{layer}.att.W_key.bias") if self._config["qkv_bias"] else None

    def b_v(self, layer: int) -> Array | None:
        """The value biases: [head, head_dim], or None if the model has none."""
        return self._by_head(f"trf_blocks.{layer}.att.W_value.bias") if self._config["qkv_bias"] else None

    def w_o(self, layer: int) -> Array:
        """The output projection, split by head: [head, head_dim, emb_dim]. A head adds `z @ w_o` to the stream."""
        joined = self[f"trf_blocks.{layer}.att.out_proj.weight"]  # [emb_dim, heads joined]
        return joined.reshape(len(joined), self._config["n_heads"], -1).transpose(1, 2, 0)

    def b_o(self, layer: int) -> Array:
        """The output projection's bias, which belongs to no head: [emb_dim]."""
        return self[f"trf_blocks.{layer}.att.out_proj.bias"]

    # --- feed-forward network ------------------------------------------------------------------

    def w_in(self, layer: int) -> Array:
        """The input weights of each MLP neuron: [neuron, emb_dim]."""
        return self[f"trf_blocks.{layer}.ff.layers.0.weight"]

    def b_in(self, layer: int) -> Array:
        """The input bias of each MLP neuron: [neuron]."""
        return self[f"trf_blocks.{layer}.ff.layers.0.bias"]

    def w_out(self, layer: int) -> Array:
        """The output weights of each MLP neuron, its output for an activation of 1: [neuron, emb_dim]."""
        return self[f"trf_blocks.{layer}.ff.layers.2.weight"].T

    def b_out(self, layer: int) -> Array:
        """The MLP's output bias: [emb_dim]."""
        return self[f"trf_blocks.{layer}.ff.layers.2.bias"]

    # --- norms ---------------------------------------------------------------------------------

    def norm1(self, layer: int) -> Norm:
        """The LayerNorm before a block's attention."""
        return self._norm(f"trf_blocks.{layer}.norm1")

    def norm2(self, layer: int) -> Norm:
        """The LayerNorm before a block's MLP."""
        return self._norm(f"trf_blocks.{layer}.norm2")

    @property
    def final_norm(self) -> Norm:
        """The LayerNorm before the output head."""
        return self._norm("final_norm")

    def _by_head(self, name: str) -> Array:
        """[heads joined, ...] -> [head, head_dim, ...]"""
        joined = self[name]
        return joined.reshape(self._config["n_heads"], -1, *joined.shape[1:])

    def _norm(self, name: str) -> Norm:
        return Norm(self[f"{name}.scale"], self[f"{name}.shift"])
