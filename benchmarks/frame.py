"""Helpers shared by all parts: rows, the clock, optional peer libraries, and writing the results."""

import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch

RESULTS = Path(__file__).parent / "results"
VERSIONS_OF = ("torch", "streamlit", "plotly", "transformers", "transformer_lens", "bertviz")
N_THREADS = os.cpu_count() or 1  # The same for both sides.
Row = dict[str, Any]


class MissingPeerError(RuntimeError):
    """A package that a part compares with is not installed."""


def peer(name: str) -> ModuleType:
    """Import a package that only the benchmarks need; raise `MissingPeerError` if it is not installed."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        message = f"needs {name}: install benchmarks/requirements.txt"
        raise MissingPeerError(message) from error
    if name == "transformers":
        module.utils.logging.disable_progress_bar()
    return module


@cache
def gpt2_folder() -> Path:
    """Return a folder with GPT-2 small's shape and seeded random weights, saved by transformers; both sides load it."""
    transformers = peer("transformers")
    torch.manual_seed(0)
    folder = tempfile.TemporaryDirectory(prefix="gpt2-")
    _FOLDERS.append(folder)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval().save_pretrained(folder.name)
    return Path(folder.name)


def transformers_model() -> Any:
    """Return that model as loaded by transformers, with its fused attention (SDPA)."""
    model = peer("transformers").GPT2LMHeadModel
    return model.from_pretrained(gpt2_folder(), attn_implementation="sdpa").eval()


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # Deleted when the process ends.


def ids(n_tokens: int) -> list[int]:
    """Return `n_tokens` token ids, all different."""
    return list(range(1000, 1000 + n_tokens))


def in_turns(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each call. Every round runs each call once; one warm-up round is not counted.

    The time to free a call's return value is not measured.
    """
    torch.set_num_threads(N_THREADS)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            result = call()
            times[name].append(time.perf_counter() - start)
            del result
    return {name: 1e3 * statistics.median(values[1:]) for name, values in times.items()}


def row(
    what: str,
    case: str,
    ours: float,
    unit: str,
    *,
    against: str = "",
    theirs: float | None = None,
    at_most: float | None = None,
) -> Row:
    """Return one row of a table. `at_most` bounds ours divided by theirs, or ours if there is no other side."""
    ratio = None if theirs is None else ours / theirs
    value = ours if ratio is None else ratio
    reached = None if at_most is None else bool(value <= at_most)
    return {
        "what": what,
        "case": case,
        "ours": ours,
        "unit": unit,
        "against": against,
        "theirs": theirs,
        "ratio": ratio,
        "at_most": at_most,
        "reached": reached,
    }


# --- writing -----------------------------------------------------------------------------------


def save(part: str, rows: list[Row], repeats: int) -> None:
    """Save a part's rows, with the machine and versions they were measured on."""
    memory = psutil.virtual_memory().total
    about = {
        "date": datetime.date.today().isoformat(),
        "repeats": repeats,
        "machine": f"{os.cpu_count()} cores ({_cpu()}), {memory / 1e9:.0f} GB, {platform.system()}",
        "versions": {"python": platform.python_version()} | dict(_versions()),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{part}.json").write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> Iterable[tuple[str, str]]:
    for name in VERSIONS_OF:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def table(rows: list[Row]) -> str:
    """Return a Markdown table. Rows made by `row` get their own columns; all others are shown as they are."""
    if rows and "what" in rows[0]:
        columns = ["what", "case", "gptviz", "peer", "ratio", "at most", "reached"]
        cells = [_cells(one) for one in rows]
    else:
        columns = list(rows[0]) if rows else []
        cells = [[_number(value) for value in one.values()] for one in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(one: Row) -> list[str]:
    unit, is_ratio = one["unit"], one["ratio"] is not None
    limit = one["at_most"]
    return [
        one["what"],
        one["case"],
        f"{_number(one['ours'])} {unit}",
        f"{one['against']}: {_number(one['theirs'])} {unit}" if is_ratio else "",
        f"{one['ratio']:.2f}x" if is_ratio else "",
        "" if limit is None else f"{limit:g}x" if is_ratio else f"{limit:g} {unit}",
        {True: "yes", False: "**no**", None: ""}[one["reached"]],
    ]


def _number(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_report(parts: Mapping[str, str], report: Path) -> None:
    """Write RESULTS.md from all saved results; `parts` maps each part's name to its description, in order."""
    sections = [
        "# Measured",
        "`python -m benchmarks` writes this file. Both sides of a row do the same work in the same run, in turns, on "
        "the same number of threads, in float32; times are medians. GPT-2 small is its shape with random weights.",
    ]
    for part, about in parts.items():
        file = RESULTS / f"{part}.json"
        if file.exists():
            kept = json.loads(file.read_text())
            versions = ", ".join(f"{name} {version}" for name, version in kept["versions"].items())
            measured_on = f"{kept['date']}, {kept['machine']}; {kept['repeats']} repeats; {versions}."
            sections += [f"## {part}", about, table(kept["rows"]), measured_on]
            if (RESULTS / f"{part}.png").exists():
                sections.append(f"![{part}](results/{part}.png)")
    report.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
