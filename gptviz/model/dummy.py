"""The course's first skeleton: the right shapes outside, nothing inside yet."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .gpt import ContextLengthError


class DummyTransformerBlock(nn.Module):
    """Holds a block's place: what comes in goes out."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same tensor."""
        return x


class DummyLayerNorm(nn.Module):
    """Holds a LayerNorm's place: what comes in goes out."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same tensor."""
        return x


class DummyGPTModel(nn.Module):
    """Random embeddings and a random head around empty blocks: it runs, and knows nothing.

    Each token is looked at alone, so what came before cannot change a prediction.
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
        """[batch, tokens] -> what comes out of the empty blocks, [batch, tokens, emb_dim]."""
        if ids.shape[1] > self.context_length:
            raise ContextLengthError(ids.shape[1], self.context_length)
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.trf_blocks(self.drop_emb(self.tok_emb(ids) + self.pos_emb(positions)))
