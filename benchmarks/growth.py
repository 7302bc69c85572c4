"""Time and memory growth: over tokens (GPT-2 small's shape), model sizes (64 tokens), and sessions (story-gpt).

Peaks are measured above what the process held before, including its own free pages. Sizes that do not fit into free
memory are left out. The sessions do the same as those in `load`, for 20 s each. growth.png plots the same numbers.
"""

import asyncio
import statistics
from collections.abc import Callable
from pathlib import Path

import psutil

import gptviz
from benchmarks import load, peak
from benchmarks.frame import RESULTS, Row, ids, in_turns, row
from benchmarks.session import server
from gptviz.config import GPT_CONFIGS, GPTConfig
from gptviz.weights import untrained_model

TOKENS = (16, 64, 256, 1024)
SESSIONS = (1, 10, 30, 50)


def run(repeats: int) -> list[Row]:
    """Return the rows of all three. With one repeat this is a quick run: two model sizes and two session counts."""
    quick = repeats == 1
    rows = [*_over_tokens(repeats), *_over_sizes(repeats, 2 if quick else 4)]
    rows += _over_sessions(SESSIONS[:2] if quick else SESSIONS, 8.0 if quick else 20.0)
    _draw(rows)
    return rows


def _over_tokens(repeats: int) -> list[Row]:
    engine = gptviz.load("untrained", device="cpu")
    rows = []
    for n_tokens in TOKENS:
        case = f"{n_tokens:,} tokens"
        rows += _rows_of_a_run("tokens", case, engine, n_tokens, repeats)
        tokens = engine.tokenizer.tokens(ids(n_tokens))
        rows.append(row("tokens: a trace holds at most", case, engine.run(tokens).max_bytes / 1e6, "MB"))
        above = peak.above(lambda tokens=tokens: _patterns(engine.run(tokens)))  # type: ignore[misc]
        rows.append(row("tokens: every pattern, peak", case, max(above, 0.0), "MB"))
    return rows


def _over_sizes(repeats: int, n_sizes: int) -> list[Row]:
    rows = []
    for name, config in list(GPT_CONFIGS.items())[:n_sizes]:
        n_bytes = 4 * _n_parameters(config)
        if psutil.virtual_memory().available < 1.5 * n_bytes:
            continue
        engine = gptviz.Engine(untrained_model(config, 0), config, device="cpu")
        rows.append(row("sizes: the weights", name, n_bytes / 1e6, "MB"))
        rows += _rows_of_a_run("sizes", name, engine, 64, repeats)
        del engine
    return rows


def _n_parameters(config: GPTConfig) -> int:
    width = config["emb_dim"]
    return (config["vocab_size"] + config["context_length"]) * width + 12 * config["n_layers"] * width**2


def _rows_of_a_run(what: str, case: str, engine: gptviz.Engine, n_tokens: int, repeats: int) -> list[Row]:
    tokens = engine.tokenizer.tokens(ids(n_tokens))
    works: dict[str, Callable[[], object]] = {
        "a run": lambda: engine.run(tokens),
        "every pattern, derived in turn": lambda: _patterns(engine.run(tokens)),
    }
    times = in_turns(works, repeats)
    return [row(f"{what}: {name}", case, milliseconds, "ms") for name, milliseconds in times.items()]


def _patterns(trace: gptviz.Trace) -> None:
    for layer in range(trace.config["n_layers"]):
        trace["pattern", layer]


def _over_sessions(numbers: tuple[int, ...], seconds: float) -> list[Row]:
    rows = []
    for n_sessions in numbers:
        case = f"{n_sessions} sessions"
        with server() as (url, process):
            megabytes = lambda process=process: process.memory_info().rss / 1e6  # noqa: E731
            one = asyncio.run(load.sit(url, 0, n_sessions, seconds, megabytes))
        rows += [
            row("sessions: an update, median", case, statistics.median(one.milliseconds), "ms"),
            row("sessions: an update, 95th percentile", case, statistics.quantiles(one.milliseconds, n=20)[-1], "ms"),
            row("sessions: the server's memory", case, one.megabytes, "MB"),
        ]
    return rows


def _draw(rows: list[Row]) -> None:
    """Plot time and memory side by side, for each of the three."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("No drawing: it needs matplotlib.")
        return
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for column, over in zip(axes.T, ("tokens", "sizes", "sessions"), strict=True):
        for place, unit in zip(column, ("ms", "MB"), strict=True):
            lines: dict[str, list[tuple[str, float]]] = {}
            for one in rows:
                if one["what"].startswith(f"{over}:") and one["unit"] == unit:
                    lines.setdefault(one["what"].partition(": ")[2], []).append((one["case"], one["ours"]))
            for name, points in lines.items():
                place.plot(*zip(*points, strict=True), marker="o", label=name)
            place.set(ylabel=unit, ylim=(0, None), title=f"{'time' if unit == 'ms' else 'memory'} over {over}")
            place.tick_params(axis="x", labelrotation=20, labelsize=8)
            place.grid(alpha=0.3)
            place.legend(fontsize=7)
    Path(RESULTS).mkdir(exist_ok=True)
    figure.savefig(RESULTS / "growth.png", dpi=80)
    plt.close(figure)
