"""`python -m benchmarks PART ...`: run the parts named, or all; print tables, and keep them in RESULTS.md."""

import argparse
import importlib
import inspect
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import frame


class Part(NamedTuple):
    """A module of this package with `run(repeats)`, and how often it repeats; a quick run looks at less."""

    repeats: int
    quick: int


PARTS = {
    "forward": Part(15, 5),
    "everything": Part(9, 3),
    "memory": Part(2, 1),
    "generation": Part(9, 3),
    "loading": Part(9, 3),
    "wire": Part(1, 1),
    "causes": Part(9, 2),
    "growth": Part(3, 1),
    "load": Part(3, 1),
    "many_texts": Part(2, 1),
    "redraw": Part(9, 3),
    "long_text": Part(5, 0),
    "edit": Part(5, 3),
    "start": Part(5, 1),
}


def main() -> None:
    """Run the parts that the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=f"Parts: {', '.join(PARTS)}.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="which (all)")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and cases")
    parser.add_argument("--repeats", type=int, help="how often each is measured")
    options = parser.parse_args()
    for name in options.parts or PARTS:
        module = importlib.import_module(f"benchmarks.{name}")
        repeats = options.repeats or (PARTS[name].quick if options.quick else PARTS[name].repeats)
        if not repeats:
            continue  # too long to be quick
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
