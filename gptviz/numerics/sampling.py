"""Probabilities of the next token from logits, and drawing from them."""

import numpy as np
from jaxtyping import Float, Float64

from .ranking import top_ids


def softmax(logits: Float[np.ndarray, "*batch vocab_size"]) -> Float64[np.ndarray, "*batch vocab_size"]:
    """Probabilities over the last axis, in float64; each row sums to 1."""
    logits = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def log_softmax(logits: Float[np.ndarray, "*batch vocab_size"]) -> Float64[np.ndarray, "*batch vocab_size"]:
    """Natural logarithm of `softmax`, without its underflow."""
    logits = np.asarray(logits, dtype=np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def next_token_probabilities(
    logits: Float[np.ndarray, " vocab_size"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float64[np.ndarray, " vocab_size"]:
    """The distribution that the next token is drawn from; it sums to 1.

    `temperature` divides the logits; at 0 all the probability is on the highest (greedy).
    `top_k` then keeps the k most probable tokens (Fan et al. 2018); `top_p` then keeps the
    fewest of these whose probability, renormalised, reaches p (nucleus; Holtzman et al. 2020).
    Both look at the whole vocabulary. On a tie, the lower id comes first. Raises `ValueError`
    if a number is out of range.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}: make it 0 (greedy) or more.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}: make it 1 or more, or None to keep all tokens.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}: make it above 0 and at most 1, or None to keep all tokens.")

    if temperature == 0:
        probabilities = np.zeros_like(logits)
        probabilities[logits.argmax()] = 1.0
        return probabilities

    # Subtract the highest logit first: a tiny temperature then sends all the others to minus infinity.
    with np.errstate(over="ignore"):
        probabilities = softmax((logits - logits.max()) / temperature)
    if top_k is None and top_p is None:
        return probabilities
    order = top_ids(logits, top_k or len(logits))  # not by probability: close ones can round to a tie
    kept = probabilities[order] / probabilities[order].sum()
    if top_p is not None:
        n_kept = 1 + int(np.searchsorted(np.cumsum(kept), top_p - 1e-12))
        order, kept = order[:n_kept], kept[:n_kept]
    filtered = np.zeros_like(probabilities)
    filtered[order] = kept / kept.sum()
    return filtered


def draw(probabilities: Float64[np.ndarray, " vocab_size"], seed: int | None, position: int) -> int:
    """Draw the id of the token that goes to `position` from its distribution.

    The same seed and position make the same draw, however many tokens are asked for at once;
    without a seed each draw is new.
    """
    random = np.random.default_rng(None if seed is None else (seed, position))
    return int(random.choice(len(probabilities), p=probabilities))
