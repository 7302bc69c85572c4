"""Attention patterns shrunk to small maps, keeping the strongest weight of each square."""

import numpy as np
from jaxtyping import Float, UInt8

MOST_PIXELS = 1200  # along the longer side of the whole picture


def pool_factor(n_tokens: int, n_layers: int, n_heads: int) -> int:
    """Tokens to pool on each axis so that all heads fit in `MOST_PIXELS`; 1 if they fit without pooling."""
    return -(-n_tokens * max(n_layers, n_heads) // MOST_PIXELS)


def pool(pattern: Float[np.ndarray, "head query key"], factor: int) -> UInt8[np.ndarray, "head side side"]:
    """The largest weight of each factor x factor square, as an integer from 0 to 255.

    A strong weight stays visible however long the text is; an average would wash it out. The last
    squares may be smaller.
    """
    return np.round(largest_of_squares(pattern, factor) * 255).astype(np.uint8)


def largest_of_squares(
    pattern: Float[np.ndarray, "*head query key"], factor: int
) -> Float[np.ndarray, "*head side side"]:
    """The largest number of each factor x factor square of the last two axes, which shrink by `factor`."""
    starts = np.arange(0, pattern.shape[-1], factor)
    return np.maximum.reduceat(np.maximum.reduceat(pattern, starts, axis=-2), starts, axis=-1)
