"""Checks that a model computes what GPT-2 computes, and that its weights are those of its file.

Every step of every block is recomputed in float64 from the formulas (`gptviz.analysis.arithmetic`), which share no
code with the model. For named models there are also published facts.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from .analysis import arithmetic
from .catalog import MODELS
from .checkpoints import WeightsError
from .engine import Engine
from .hooks import ACTIVATIONS
from .hub import checksum_of, known_checksum
from .interventions import Part
from .numerics.sampling import log_softmax, next_token_probabilities
from .trace import Trace
from .weights import read_checkpoint

TEXT = "When Mary and John went to the store, John gave a drink to Mary."
_CARDS_CHECKSUM = re.compile(r"^\| sha256 \| ([0-9a-f]{64}) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Check:
    """One check: what was compared, the figure found, and whether it holds (None if nothing can be compared)."""

    name: str
    figure: str
    passed: bool | None


def checks(engine: Engine) -> list[Check]:
    """Return all checks for this model: its file, every step, and published facts if its name is known."""
    tokens = engine.tokenize(TEXT)[: engine.config["context_length"]]
    trace = engine.run(tokens, keep=ACTIVATIONS)  # in one pass, so that each step reads what the previous one made
    with np.errstate(all="ignore"):  # a broken model's infinities are failed checks, not warnings
        return [
            *_file(engine),
            *_steps(engine, trace),
            *_small_streams(engine, trace),
            *_whole_run(engine, trace),
            *_PUBLISHED.get(engine.name, _nothing)(engine),
        ]


# --- the file ----------------------------------------------------------------------------------


def _file(engine: Engine) -> Iterator[Check]:
    """Check that the file is the published one, and that the weights in memory are the file's."""
    if engine.path is None:
        yield Check("the weights", "come from no file, so there is none to compare them with", None)
        return
    n_known = 0
    for file in _files(engine.path):
        known, whose = _published_checksum(engine, file)
        if known:
            n_known += 1
            same = checksum_of(file, len(known)) == known
            figure = f"as {whose}" if same else f"another than {whose}: get the file again"
            yield Check(f"the checksum of {file.name}", figure, same)
    if not n_known:
        yield Check("the file itself", "cannot be vouched for: nothing says which weights it should hold", None)
    yield _in_memory(engine, engine.path)


def _files(path: Path) -> list[Path]:
    """Return the files that a model is read from."""
    if not path.is_dir():
        return [path]
    config, single = path / "config.json", path / "model.safetensors"
    weights = [single] if single.exists() else sorted(path.glob("*.safetensors"))
    return [*([config] if config.exists() else []), *weights]


def _published_checksum(engine: Engine, file: Path) -> tuple[str | None, str]:
    """Return the file's published checksum (None if unknown) and its source, the bundled model's card or the hub."""
    model = MODELS.get(engine.name)
    if model is None or model.folder is None:
        return known_checksum(file), "the hub's"
    if file.suffix != ".safetensors":
        return None, ""
    found = _CARDS_CHECKSUM.search((model.folder / "card.md").read_text(encoding="utf-8"))
    return found[1] if found else None, "the card's"


def _in_memory(engine: Engine, path: Path) -> Check:
    """Compare every weight in memory with the file, which is read a second time."""
    name = "the weights in memory are the file's"
    try:
        # The bundled files and the hub's do not change, so they are mapped, which avoids a second copy.
        checkpoint = read_checkpoint(path, n_heads=engine.config["n_heads"], mapped=engine.name in MODELS)
    except WeightsError as error:
        return Check(name, f"the file cannot be read a second time ({error})", False)
    tensors = dict(checkpoint.tensors)
    if checkpoint.tied_head:
        tensors["out_head.weight"] = tensors["tok_emb.weight"]
    differing = [name for name, tensor in tensors.items() if not _is_weight(engine, name, tensor.float().numpy())]
    if checkpoint.config != engine.config:
        differing.append("the configuration")
    if differing:
        return Check(name, f"{len(differing)} of {len(tensors)} differ, such as {differing[0]}", False)
    return Check(name, f"all {len(tensors)} tensors are", True)


def _is_weight(engine: Engine, name: str, values: ArrayLike) -> bool:
    try:
        return np.array_equal(engine.weights[name], values)
    except KeyError:
        return False


# --- every step --------------------------------------------------------------------------------


def _steps(engine: Engine, trace: Trace) -> Iterator[Check]:
    """Check every step of every layer by recomputing it in float64."""
    for step in arithmetic.STEPS.values():
        layers = range(engine.config["n_layers"]) if step.in_block else [None]
        yield _step(step.title, (arithmetic.check(trace, step, layer) for layer in layers))


def _small_streams(engine: Engine, trace: Trace) -> Iterator[Check]:
    """Check every norm on streams so small that its eps matters; in a run's own streams, rounding may hide an error."""
    layers = range(engine.config["n_layers"])
    streams = [*(trace["resid_pre", layer] for layer in layers), trace["resid_post", layers[-1]]]
    small = [np.float32(1e-3) * stream / stream.std(axis=-1, keepdims=True) for stream in streams]
    # Without attention, the second norm reads the small stream too.
    probe = engine.trace_of(trace.tokens, small, off=[Part("attention", layer) for layer in layers])
    for key in ("norm1", "norm2", "final_norm"):
        step = arithmetic.STEPS[key]
        found = (arithmetic.check(probe, step, layer) for layer in (layers if step.in_block else [None]))
        yield _step(f"{step.title} of a stream of standard deviation 0.001", found)


def _step(title: str, found: Iterable[arithmetic.StepCheck]) -> Check:
    by_layer = list(found)
    shares = [one.share for one in by_layer]
    worst = int(np.argmax(shares))  # argmax treats NaN as the largest
    n_cells = sum(one.n_cells for one in by_layer)
    if all(one.passed for one in by_layer):
        return Check(title, f"{n_cells:,} cells, the worst with {shares[worst]:.0%} of what float32 allows", True)
    where = (
        f"layer {worst}, cell {by_layer[worst].at}" if by_layer[worst].step.in_block else f"cell {by_layer[worst].at}"
    )
    return Check(title, f"{where} is off by {shares[worst]:.3g} times what float32 allows", False)


# --- the whole run -----------------------------------------------------------------------------


def _whole_run(engine: Engine, trace: Trace) -> Iterator[Check]:
    """Check what lies between the steps: embeddings, fused attention, the last logits, and generation with a cache."""
    ids = list(trace.tokens.ids)
    yield _close(
        "the embeddings are the tokens' and the positions' own, and their sum enters the first block",
        np.stack((trace["embed"], trace["pos_embed"], trace["resid_pre", 0])),
        np.stack(_embeddings(engine, ids)),
    )
    fused = engine.run(trace.tokens)  # no hooks inside attention, so PyTorch's fused kernel computes it
    layers = range(engine.config["n_layers"])
    yield _close(
        "PyTorch's fused attention finds what attention step by step does",
        np.stack([fused["z", layer] for layer in layers]),
        np.stack([trace["z", layer] for layer in layers]),
        tolerance=1e-4,
    )
    yield _close("and ends with the same logits", fused.logits_at(-1), trace.logits_at(-1), tolerance=1e-4)
    finite = bool(np.isfinite(trace["logits"]).all())
    yield Check("every logit is a number", "all finite" if finite else "some are NaN or infinite", finite)
    if finite:
        yield _generation(engine, trace)


def _embeddings(engine: Engine, ids: list[int]) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
    token = engine.weights.w_e[ids]
    position = engine.weights.w_pos[: len(ids)]
    return token, position, token.astype(np.float64) + position


def _generation(engine: Engine, trace: Trace) -> Check:
    """Compare three tokens from the key-value cache with a full run for each."""
    tokens = trace.tokens[: max(1, engine.config["context_length"] - 3)]
    n_new = min(3, engine.config["context_length"] - len(tokens))
    temperature = max(1.0, float(trace.logits_at(-1).std()))  # so that no token is certain
    found, expected = [], []
    for token in engine.generate(tokens, n_new, temperature, seed=0):
        logits = engine.run(tokens).logits_at(-1)
        found.append(np.log(token.probability))
        expected.append(np.log(next_token_probabilities(logits, temperature=temperature)[token.id]))
        tokens += engine.tokenizer.tokens([token.id])
    return _close("generation with a key-value cache is as without", found, expected, tolerance=1e-4)


def _close(name: str, found: ArrayLike, expected: ArrayLike, tolerance: float = 1e-5) -> Check:
    """Compare; the tolerance is relative to the largest number, as float32 rounding is."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    difference = float(np.abs(found - expected).max(initial=0))
    largest = max(1.0, float(np.abs(expected).max(initial=0)))
    return Check(name, f"largest difference {difference:.1e}", difference <= tolerance * largest)


# --- published facts ---------------------------------------------------------------------------


def _nothing(_engine: Engine) -> Iterator[Check]:
    return iter(())


def _gpt2(engine: Engine) -> Iterator[Check]:
    """Check OpenAI's GPT-2 small against figures from other libraries' tests."""
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
    """Check the bundled model against its card."""
    n_parameters = engine.n_parameters
    yield Check("12,364,608 parameters", f"{n_parameters:,}", n_parameters == 12_364_608)
    published = {" little": 0.235, " big": 0.050, " small": 0.032, " great": 0.032, " boy": 0.032}
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
    """Return the mean of -log p over all tokens of the text except the first, in nats."""
    log_probabilities = log_softmax(trace.logits_at(slice(0, -1)))
    following = np.array(trace.tokens.ids[1:])
    return float(-log_probabilities[np.arange(len(following)), following].mean())
