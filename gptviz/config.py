"""The numbers that define a GPT-2's shape, under the course's names."""

from typing import Any, TypedDict

from .quote import named, quoted


class GPTConfig(TypedDict):
    """One model's shape. Seven keys, as in "Build a Large Language Model (From Scratch)"."""

    vocab_size: int  # how many different tokens there are
    context_length: int  # the most tokens that fit in one text
    emb_dim: int  # numbers per token in the residual stream
    n_heads: int  # attention heads per block; each has emb_dim / n_heads dimensions
    n_layers: int  # transformer blocks
    drop_rate: float  # share of values that dropout sets to zero in training; otherwise it is off
    qkv_bias: bool  # whether the query, key and value layers add a bias


class ConfigError(ValueError):
    """A configuration that no GPT-2 can have; the message says what to change."""


GPT_CONFIG_124M = GPTConfig(
    vocab_size=50257, context_length=1024, emb_dim=768, n_heads=12, n_layers=12, drop_rate=0.1, qkv_bias=False
)
GPT_CONFIG_355M = GPTConfig(**{**GPT_CONFIG_124M, "emb_dim": 1024, "n_layers": 24, "n_heads": 16})
GPT_CONFIG_774M = GPTConfig(**{**GPT_CONFIG_124M, "emb_dim": 1280, "n_layers": 36, "n_heads": 20})
GPT_CONFIG_1558M = GPTConfig(**{**GPT_CONFIG_124M, "emb_dim": 1600, "n_layers": 48, "n_heads": 25})

GPT_CONFIGS: dict[str, GPTConfig] = {
    "small": GPT_CONFIG_124M,
    "medium": GPT_CONFIG_355M,
    "large": GPT_CONFIG_774M,
    "xl": GPT_CONFIG_1558M,
}


def check_config(config: dict[str, Any] | GPTConfig) -> GPTConfig:
    """Return `config` as a `GPTConfig`, or raise a `ConfigError` that says what to change."""
    expected = set(GPTConfig.__annotations__)
    if missing := sorted(expected - set(config)):
        raise ConfigError(f"The configuration lacks {', '.join(missing)}: add it.")
    if unknown := sorted(set(config) - expected):
        raise ConfigError(f"The configuration has unknown keys: remove {named(', '.join(map(str, unknown)))}.")

    for name in ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"):
        value = config[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} is {quoted(value)}: make it a whole number above 0.")
        if value >= 2**31:
            raise ConfigError(f"{name} is larger than any model's: make it a number below 2,147,483,648.")
    drop_rate = config["drop_rate"]
    if isinstance(drop_rate, bool) or not isinstance(drop_rate, int | float) or not 0 <= drop_rate < 1:
        raise ConfigError(f"drop_rate is {quoted(drop_rate)}: make it a number from 0 to below 1.")
    if not isinstance(config["qkv_bias"], bool):
        raise ConfigError(f"qkv_bias is {quoted(config['qkv_bias'])}: make it True or False.")
    if config["emb_dim"] % config["n_heads"]:
        raise ConfigError(
            f"emb_dim ({config['emb_dim']}) is not divisible by n_heads ({config['n_heads']}): "
            "change one of them, so that every head gets the same whole number of dimensions."
        )
    return GPTConfig(**config)  # type: ignore[typeddict-item]


def attention_parameters(config: GPTConfig) -> int:
    """The number of trainable values in one block's attention: query, key, value and output matrices, and biases."""
    width = config["emb_dim"]
    return 4 * width * width + width + (3 * width if config["qkv_bias"] else 0)


def feed_forward_parameters(config: GPTConfig) -> int:
    """The number of trainable values in one block's two feed-forward layers."""
    width = config["emb_dim"]
    return 2 * 4 * width * width + 4 * width + width


def block_parameters(config: GPTConfig) -> int:
    """The number of trainable values in one block: attention, feed-forward, and two LayerNorms."""
    return attention_parameters(config) + feed_forward_parameters(config) + 2 * 2 * config["emb_dim"]


def parameter_count(config: GPTConfig, *, tied_head: bool) -> int:
    """The number of trainable values in a model of this shape.

    With `tied_head` the output head is the token embedding itself and counts once; otherwise it
    is a separate matrix. For GPT-2 small (qkv_bias True): 124,439,808 tied and 163,037,184 untied.
    """
    width = config["emb_dim"]
    embeddings = (config["vocab_size"] + config["context_length"]) * width
    head = 0 if tied_head else config["vocab_size"] * width
    return embeddings + config["n_layers"] * block_parameters(config) + 2 * width + head
