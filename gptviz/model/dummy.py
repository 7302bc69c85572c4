"""The course's first skeleton: a model with the right shapes, but blocks that do nothing yet."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .gpt import ContextLengthError


class DummyTransformerBlock(nn.Module):
    """A placeholder for a block: returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same tensor."""
        return x


class DummyLayerNorm(nn.Module):
    """A placeholder for a LayerNorm: returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same tensor."""
        return x


class DummyGPTModel(nn.Module):
    """Random embeddings and a random output head around empty blocks: it runs, but knows nothing.

    Each token is processed alone, so earlier tokens cannot change a prediction.
    """

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.context_length = cfg["context_length"]
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(*(DummyTransformerBlock() for _ in range(cfg["n_layers"])))
        self.final_norm = DummyLayerNorm()
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, tokens] -> logits [batch, tokens, vocab_size]"""
        return self.out_head(self.final_norm(self.stream(ids)))

    def stream(self, ids: Tensor) -> Tensor:
        """[batch, tokens] -> the output of the empty blocks, [batch, tokens, emb_dim]."""
        if ids.shape[1] > self.context_length:
            raise ContextLengthError(ids.shape[1], self.context_length)
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.trf_blocks(self.drop_emb(self.tok_emb(ids) + self.pos_emb(positions)))
