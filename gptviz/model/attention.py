"""Masked multi-head attention, written out: scores, mask, softmax, weighted values."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class KeyValueCache:
    """The keys and values of one layer for the tokens seen so far, so that a next token
    needs no second look at them. Both are [batch, head, tokens, head_dim]."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values; give back those of all tokens."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat((self.keys, keys), dim=2)
            values = torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values


class CausalSoftmax(nn.Module):
    """Turns scores into weights: the future gets weight 0, and each row sums to 1."""

    def forward(self, scores: Tensor) -> Tensor:
        """[batch, head, query, key] -> the same shape. The last query is the last key's token."""
        n_query, n_key = scores.shape[-2:]
        future = torch.ones(n_query, n_key, dtype=torch.bool, device=scores.device)
        future = future.triu(diagonal=1 + n_key - n_query)
        return torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1)


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

        scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5  # [batch, head, query, key]
        pattern = self.dropout(self.causal_softmax(scores))
        z = pattern @ v  # [batch, head, query, head_dim]
        return self.out_proj(z.transpose(1, 2).flatten(2))  # heads joined: [batch, query, emb_dim]

    def _split_heads(self, x: Tensor) -> Tensor:
        """[batch, tokens, emb_dim] -> [batch, head, tokens, head_dim]"""
        return x.unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2)
