"""GPT-2 in PyTorch, one class per idea. Its activations are recorded from outside, with hooks."""

from .attention import CausalSoftmax, KeyValueCache, MultiHeadAttention
from .dummy import DummyGPTModel
from .gpt import ContextLengthError, GPTModel, TransformerBlock
from .layers import GELU, FeedForward, LayerNorm

__all__ = [
    "GELU",
    "CausalSoftmax",
    "ContextLengthError",
    "DummyGPTModel",
    "FeedForward",
    "GPTModel",
    "KeyValueCache",
    "LayerNorm",
    "MultiHeadAttention",
    "TransformerBlock",
]
