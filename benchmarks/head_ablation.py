"""All heads of GPT-2 small's shape, switched off one by one at 16 tokens, against one forward pass."""

import statistics
import time
from collections.abc import Callable

import gptviz
from benchmarks.frame import Row, row
from gptviz.experiments.head_ablation import head_effects

N_TOKENS = 16


def run(repeats: int) -> list[Row]:
    """Time both in turn; return one row."""
    engine = gptviz.load("untrained", device="cpu")
    tokens = engine.tokenizer.tokens(range(1000, 1000 + N_TOKENS))
    passes, effects = [], []
    for _ in range(repeats + 1):
        passes += [_seconds(lambda: engine.run(tokens, keep=("logits",))) for _ in range(5)]
        trace = engine.run(tokens)
        effects.append(_seconds(lambda trace=trace: head_effects(trace, N_TOKENS - 1, token=1)))  # type: ignore[misc]
    one, all_heads = statistics.median(passes[5:]), statistics.median(effects[1:])
    n_heads = engine.config["n_layers"] * engine.config["n_heads"]
    case = f"{N_TOKENS} tokens"
    return [row(f"{n_heads} heads off, one by one", case, 1e3 * all_heads, "ms", against="one pass", theirs=1e3 * one)]


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
