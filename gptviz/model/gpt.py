"""The transformer block, and the whole model from token ids to logits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .attention import KeyValueCache, MultiHeadAttention
from .layers import FeedForward, LayerNorm


class ContextLengthError(ValueError):
    """A text with more tokens than the model has positions for."""

    def __init__(self, n_tokens: int, context_length: int) -> None:
        super().__init__(f"The text has {n_tokens} tokens, and the model takes at most {context_length}: shorten it.")
        self.n_tokens, self.context_length = n_tokens, context_length


class Shortcut(nn.Module):
    """A shortcut connection: adds a sub-layer's output to the residual stream that bypasses it."""

    def forward(self, x: Tensor, found: Tensor) -> Tensor:
        """Two tensors of the same shape -> their sum."""
        return x + found


class TransformerBlock(nn.Module):
    """A pre-norm block.

    Attention and feed-forward each read a normalised copy of the residual stream, and add their
    output to the stream (the shortcut connections).
    """

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm1 = LayerNorm(cfg["emb_dim"])
        self.att = MultiHeadAttention(cfg)
        self.norm2 = LayerNorm(cfg["emb_dim"])
        self.ff = FeedForward(cfg)
        self.drop_shortcut = nn.Dropout(cfg["drop_rate"])
        self.shortcut1, self.shortcut2 = Shortcut(), Shortcut()

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """[batch, tokens, emb_dim] -> the same shape."""
        return self.add_feed_forward(self.add_attention(x, cache))

    def add_attention(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The block's first half: [batch, tokens, emb_dim] -> the same shape."""
        return self.shortcut1(x, self.drop_shortcut(self.att(self.norm1(x), cache)))

    def add_feed_forward(self, x: Tensor) -> Tensor:
        """The second half, on the stream after attention: [batch, tokens, emb_dim] -> the same shape."""
        return self.shortcut2(x, self.drop_shortcut(self.ff(self.norm2(x))))


class GPTModel(nn.Module):
    """GPT-2: token ids in, a score for every token of the vocabulary out, at every position.

    With `tied_head` the output head is the token embedding (one tensor), as in GPT-2's
    published weights; otherwise it is a separate matrix, as in the course.
    """

    def __init__(self, cfg: Mapping[str, Any], *, tied_head: bool = False) -> None:
        super().__init__()
        self.context_length = cfg["context_length"]
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.ModuleList(TransformerBlock(cfg) for _ in range(cfg["n_layers"]))
        self.final_norm = LayerNorm(cfg["emb_dim"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)
        if tied_head:
            self.tie_head()

    def tie_head(self) -> None:
        """Make the output head and the token embedding share one tensor."""
        self.out_head.weight = self.tok_emb.weight

    @property
    def tied_head(self) -> bool:
        """Whether the output head is the token embedding."""
        return self.out_head.weight is self.tok_emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, tokens] -> logits [batch, tokens, vocab_size]"""
        return self.out_head(self.final_norm(self.stream(ids)))

    def stream(self, ids: Tensor, caches: Sequence[KeyValueCache] | None = None) -> Tensor:
        """[batch, tokens] -> the residual stream after the last block, [batch, tokens, emb_dim].

        With `caches` (one per block), `ids` are the tokens that follow those in the caches.
        """
        x = self.embed(ids, start=len(caches[0]) if caches else 0)
        for layer, block in enumerate(self.trf_blocks):
            x = block(x, caches[layer] if caches else None)
        return x

    def embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """[batch, tokens] -> token plus positional embedding, [batch, tokens, emb_dim].

        `start` is the first token's position.
        """
        end = start + ids.shape[1]
        if end > self.context_length:
            raise ContextLengthError(end, self.context_length)
        positions = torch.arange(start, end, device=ids.device)[None]  # [1, tokens]
        return self.drop_emb(self.tok_emb(ids) + self.pos_emb(positions))
