"""`python -m benchmarks PART ...`: run the named parts, or all; print their tables and write them to RESULTS.md."""

import argparse
import importlib
import inspect
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import frame


class Benchmark(NamedTuple):
    """How often a part (a module with `run(repeats)`) repeats: normally, and with `--quick` (0: skip it)."""

    repeats: int
    quick: int


PARTS = {
    "forward": Benchmark(15, 5),
    "everything": Benchmark(9, 3),
    "memory": Benchmark(2, 1),
    "generation": Benchmark(9, 3),
    "training": Benchmark(9, 3),
    "loading": Benchmark(9, 3),
    "wire": Benchmark(1, 1),
    "head_ablation": Benchmark(9, 2),
    "growth": Benchmark(3, 1),
    "load": Benchmark(3, 1),
    "many_texts": Benchmark(2, 1),
    "redraw": Benchmark(9, 3),
    "long_text": Benchmark(5, 0),
    "edit": Benchmark(5, 3),
    "start": Benchmark(5, 1),
}


def main() -> None:
    """Run the parts named on the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=f"Parts: {', '.join(PARTS)}.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="which (all)")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and cases")
    parser.add_argument("--repeats", type=int, help="how often each is measured")
    options = parser.parse_args()
    for name in options.parts or PARTS:
        module = importlib.import_module(f"benchmarks.{name}")
        repeats = options.repeats or (PARTS[name].quick if options.quick else PARTS[name].repeats)
        if not repeats:
            continue  # This part takes too long for a quick run.
        print(f"--- {name}", flush=True)
        start = time.monotonic()
        try:
            rows = module.run(repeats)
        except frame.MissingPeerError as error:
            print(f"Left out: {name} {error}.")
            continue
        print(frame.table(rows), f"{time.monotonic() - start:.0f} s", sep="\n", flush=True)
        frame.save(name, rows, repeats)
    abouts = {name: inspect.getdoc(importlib.import_module(f"benchmarks.{name}")) or "" for name in PARTS}
    frame.write_report(abouts, Path(__file__).parent / "RESULTS.md")


if __name__ == "__main__":
    main()
