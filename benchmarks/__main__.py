"""`python -m benchmarks PART ...`: run the parts named, or all."""

import argparse

from benchmarks import causes, edit, redraw, start

PARTS = {
    "causes": causes.run,
    "redraw": redraw.run,
    "long": redraw.run_long,
    "edit": edit.run,
    "start": start.run,
}


def main() -> None:
    """Run the parts that the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which (all)")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    for name in options.parts or PARTS:
        PARTS[name](options.repeats)


if __name__ == "__main__":
    main()
