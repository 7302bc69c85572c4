"""The small parts of a block: layer normalisation, GELU and the feed-forward network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """Normalises every token to mean 0 and variance 1 over its dimensions, then applies a learned gain and bias.

    scale * (x - mean) / sqrt(variance + eps) + shift, with the biased variance (divided by
    emb_dim, not by emb_dim - 1), as in Ba et al. 2016. PyTorch's fused kernel computes it.
    """

    eps = 1e-5

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, emb_dim] -> the same shape."""
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


class GELU(nn.Module):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): the form that GPT-2 was trained with.

    The exact form, with erf, differs by up to 5e-4 (Hendrycks and Gimpel 2016).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return F.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers around a GELU: each token is widened fourfold, transformed, and projected back."""

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(cfg["emb_dim"], 4 * cfg["emb_dim"]), GELU(), nn.Linear(4 * cfg["emb_dim"], cfg["emb_dim"])
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, emb_dim] -> the same shape."""
        return self.layers(x)
