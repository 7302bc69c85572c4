"""Checks that a model computes what GPT-2 computes: identities for any model, published facts for known ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .engine import Engine
from .numerics.sampling import log_softmax
from .trace import Trace

TEXT = "When Mary and John went to the store, John gave a drink to Mary."


@dataclass(frozen=True)
class Check:
    """One check: what was compared, the figure found, and whether it holds."""

    name: str
    figure: str
    passed: bool


def checks(engine: Engine) -> list[Check]:
    """All checks for this model: the identities, and what was published about it, where its name is known."""
    limit = engine.config["context_length"]
    trace = engine.run(engine.tokenize(TEXT)[:limit], keep=("pattern", "z", "attn_out", "mlp_out"))
    return [*_identities(engine, trace), *_PUBLISHED.get(engine.name, _nothing)(engine)]


def _identities(engine: Engine, trace: Trace) -> Iterator[Check]:
    layers = range(engine.config["n_layers"])
    pattern = np.stack([trace["pattern", layer] for layer in layers])
    yield _close(
        "the embeddings' sum enters the first block", trace["embed"] + trace["pos_embed"], trace["resid_pre", 0]
    )
    yield _close("each row of every pattern sums to 1", pattern.sum(axis=-1), np.ones(pattern.shape[:-1]))
    yield _close("no weight on the future", np.triu(pattern, k=1), np.zeros_like(pattern))
    yield _close(
        "z = pattern @ v",
        [np.einsum("hqk,khd->qhd", trace["pattern", layer], trace["v", layer]) for layer in layers],
        [trace["z", layer] for layer in layers],
    )
    yield _close(
        "resid_mid = resid_pre + attn_out",
        [trace["resid_pre", layer] + trace["attn_out", layer] for layer in layers],
        [trace["resid_mid", layer] for layer in layers],
    )
    yield _close(
        "resid_post = resid_mid + mlp_out",
        [trace["resid_mid", layer] + trace["mlp_out", layer] for layer in layers],
        [trace["resid_post", layer] for layer in layers],
    )
    head = engine.weights.w_u.astype(np.float64)
    yield _close("logits = final_norm_out @ out_head", trace["final_norm_out"] @ head.T, trace["logits"])
    finite = bool(np.isfinite(trace["logits"]).all())
    yield Check("every logit is a number", "all finite" if finite else "some are NaN or infinite", finite)


def _close(name: str, found: ArrayLike, expected: ArrayLike, tolerance: float = 1e-5) -> Check:
    """Compare; the tolerance is relative to the largest number, as float32 rounding is."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    difference = float(np.abs(found - expected).max())
    largest = max(1.0, float(np.abs(expected).max()))
    return Check(name, f"largest difference {difference:.1e}", difference <= tolerance * largest)


# --- published facts ---------------------------------------------------------------------------


def _nothing(_engine: Engine) -> Iterator[Check]:
    return iter(())


def _gpt2(engine: Engine) -> Iterator[Check]:
    """OpenAI's GPT-2 small, held against figures that other libraries test themselves with."""
    n_parameters = engine.n_parameters
    yield Check("124,439,808 parameters", f"{n_parameters:,}", n_parameters == 124_439_808)

    # TransformerLens, tests/acceptance/test_hooked_transformer.py
    trace = engine.run("Hello world!", bos=True)
    loss = _mean_loss(trace)
    yield Check(
        "TransformerLens' loss of '<|endoftext|>Hello world!', 5.331855", f"{loss:.6f}", abs(loss - 5.331855) < 4e-5
    )

    # transformers, tests/models/gpt2/test_modeling_gpt2.py
    expected = [
        464,
        3290,
        373,
        1043,
        287,
        257,
        2214,
        1474,
        262,
        16246,
        286,
        262,
        2688,
        290,
        2688,
        27262,
        13,
        198,
        198,
        464,
    ]
    tokens = engine.tokenizer.tokens(expected[:2])
    found = expected[:2] + [token.id for token in engine.generate(tokens, len(expected) - 2)]
    n_same = sum(left == right for left, right in zip(found, expected, strict=False))
    yield Check(
        "transformers' greedy continuation of ' The dog'", f"{n_same} of {len(expected)} ids", found == expected
    )


def _story_gpt(engine: Engine) -> Iterator[Check]:
    """The bundled model, held against its card."""
    n_parameters = engine.n_parameters
    yield Check("12,364,608 parameters", f"{n_parameters:,}", n_parameters == 12_364_608)
    published = {" little": 0.246, " boy": 0.057, " great": 0.047, " big": 0.038, " girl": 0.032}
    trace = engine.run("Once upon a time there was a", bos=True)
    table = trace.top_k(k=len(published))
    ids = [engine.tokenize(word).ids[0] for word in published]
    difference = float(np.abs(table["probability"] - list(published.values())).max())
    yield Check(
        "the card's five next tokens",
        f"largest difference {difference:.1e}",
        ids == table["id"].tolist() and difference < 1e-3,
    )


_PUBLISHED = {"gpt2": _gpt2, "story-gpt": _story_gpt}


def _mean_loss(trace: Trace) -> float:
    """Mean over the text's tokens, but for the first, of -log p in nats."""
    log_probabilities = log_softmax(trace.logits_at(slice(0, -1)))
    following = np.array(trace.tokens.ids[1:])
    return float(-log_probabilities[np.arange(len(following)), following].mean())
