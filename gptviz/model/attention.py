"""Masked multi-head attention: scores, mask, softmax, weighted values."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KeyValueCache:
    """The keys and values of one layer for the tokens so far, so that they need not be computed again.

    Both are [batch, head, tokens, head_dim].
    """

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values, and return those of all tokens."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat((self.keys, keys), dim=2)
            values = torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values


class CausalSoftmax(nn.Module):
    """Turns scores into weights: the future gets weight 0, and each row sums to 1."""

    def forward(self, scores: Tensor) -> Tensor:
        """[batch, head, query, key] -> the same shape. The last query and the last key are the same token's."""
        n_query, n_key = scores.shape[-2:]
        future = torch.full((n_query, n_key), -torch.inf, dtype=scores.dtype, device=scores.device)
        future = future.triu(diagonal=1 + n_key - n_query)  # 0 elsewhere
        return torch.softmax(scores + future, dim=-1)


def has_hooks(module: nn.Module) -> bool:
    """Whether any hook reads or changes what passes through the module."""
    kinds = ("forward", "forward_pre", "backward", "backward_pre")
    return any(getattr(module, f"_{kind}_hooks") for kind in kinds)


def _scores_are_finite(q: Tensor, k: Tensor) -> bool:
    """Whether no score can be NaN or infinite, by a cheap bound: no score is larger than |q| |k| (Cauchy and Schwarz).

    If all scores of a row are NaN or minus infinity, PyTorch's fused kernel on the CPU returns finite numbers, which
    would hide the error.
    """
    norm_q, norm_k = (torch.linalg.vector_norm(some.detach()).item() for some in (q, k))
    return norm_q * norm_k < torch.finfo(q.dtype).max / 2  # half, as norms are rounded; also False for NaN


class MultiHeadAttention(nn.Module):
    """Every head lets each token gather values from itself and the tokens before it."""

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__()
        emb_dim, self.n_heads = cfg["emb_dim"], cfg["n_heads"]
        if emb_dim % self.n_heads:
            raise ValueError(f"emb_dim ({emb_dim}) must be divisible by n_heads ({self.n_heads}).")
        self.head_dim = emb_dim // self.n_heads
        self.W_query = nn.Linear(emb_dim, emb_dim, bias=cfg["qkv_bias"])
        self.W_key = nn.Linear(emb_dim, emb_dim, bias=cfg["qkv_bias"])
        self.W_value = nn.Linear(emb_dim, emb_dim, bias=cfg["qkv_bias"])
        self.causal_softmax = CausalSoftmax()
        self.dropout = nn.Dropout(cfg["drop_rate"])
        self.out_proj = nn.Linear(emb_dim, emb_dim)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """[batch, tokens, emb_dim] -> the same shape."""
        q = self._split_heads(self.W_query(x))
        k = self._split_heads(self.W_key(x))
        v = self._split_heads(self.W_value(x))
        if cache is not None:
            k, v = cache.extend(k, v)

        z = self._gather_fused(q, k, v) if self._may_fuse(q, k) and _scores_are_finite(q, k) else self._gather(q, k, v)
        return self.out_proj(z.transpose(1, 2).flatten(2))  # heads joined: [batch, query, emb_dim]

    def _gather(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the values that every head gathers, computed step by step: [batch, head, query, head_dim]."""
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)  # [batch, head, query, key]
        pattern = self.dropout(self.causal_softmax(scores))
        return pattern @ v

    def _gather_fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Do the same with PyTorch's fused kernel, which is faster on long texts and never holds all scores."""
        return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)

    def _may_fuse(self, q: Tensor, k: Tensor) -> bool:
        """Whether no hook needs the steps inside, dropout is off, and there is one query or no cached token before."""
        listened = has_hooks(self.causal_softmax) or has_hooks(self.dropout)
        return not listened and not self.dropout.training and q.shape[2] in (1, k.shape[2])

    def _split_heads(self, x: Tensor) -> Tensor:
        """[batch, tokens, emb_dim] -> [batch, head, tokens, head_dim]"""
        return x.unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2)
