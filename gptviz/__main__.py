"""The command line: `python -m gptviz models | next | trace | train | verify`."""

import argparse
import io
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gptviz
from gptviz import hub, verify
from gptviz.hooks import keys

_WORDS = {True: "ok  ", False: "FAIL", None: "note"}
ERRORS = (
    gptviz.WeightsError,
    gptviz.ConfigError,
    gptviz.ContextLengthError,
    gptviz.EmptyTextError,
    gptviz.DownloadError,
    OSError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    The status is 0 for success, 1 for a failed check, 2 for an error (printed as one sentence), 130 if interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal's encoding may lack characters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(arguments)
        status: int = options.run(options)
    except ERRORS as error:
        print(f"gptviz: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gptviz", description="See inside GPT-2.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    models = commands.add_parser("models", help="the models that have a name, and which are on disk")
    models.set_defaults(run=_models)

    next_token = commands.add_parser("next", help="the most probable next tokens after a text")
    next_token.add_argument("text")
    next_token.add_argument("-k", type=_count, default=10, help="how many (10)")
    next_token.add_argument("--temperature", type=_temperature, default=1.0, help="divides the logits (1.0)")
    next_token.set_defaults(run=_next)

    trace = commands.add_parser("trace", help="every activation of a text, as an .npz file")
    trace.add_argument("text")
    trace.add_argument("--out", type=_new_file, required=True, metavar="FILE.npz")
    trace.set_defaults(run=_trace)

    train = commands.add_parser("train", help="train a model on a text, or go on with a run that was stopped")
    train.add_argument("--text", type=Path, required=True, metavar="FILE", help="<|endoftext|> between documents")
    train.add_argument("--held-out", type=Path, metavar="FILE", help="a text to measure on (the end of the text)")
    train.add_argument(
        "--config", metavar="RECIPE", help="live, live-one-layer, or a recipe's file (see docs/training.md)"
    )
    train.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the run is kept")
    train.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    train.add_argument("--from", dest="start", type=Path, metavar="PATH", help="a model to start from (random weights)")
    train.add_argument("--steps", type=int, help="other than the recipe's")
    train.add_argument("--seed", type=int, help="other than the recipe's")
    train.add_argument("--device", choices=["cpu", "cuda"], help="cpu or cuda (cuda where there is one)")
    train.set_defaults(run=_train)

    check = commands.add_parser("verify", help="check a model's numbers; exits 1 when a check fails")
    check.add_argument("model", metavar="NAME", help="a name, or a path")
    check.set_defaults(run=_verify)

    for command in (next_token, trace):
        command.add_argument("--model", default="story-gpt", help="a name, or a path (story-gpt)")
        command.add_argument("--bos", action="store_true", help="put <|endoftext|> in front")
    for command in (next_token, trace, check):
        command.add_argument(
            "--n-heads", type=_number_of_heads, metavar="N", help="attention heads, for a checkpoint that does not say"
        )
    return parser


def _count(word: str) -> int:
    if not word.isdecimal() or len(word) > 9 or not (number := int(word)):
        raise argparse.ArgumentTypeError(f"{word[:50]!r} is no count: give a whole number from 1 on")
    return number


def _temperature(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{word[:50]!r} is no temperature: give a number from 0 on")
    return number


def _new_file(word: str) -> Path:
    path = Path(word)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{word!r} is a folder: name a file in it")
    return path


def _say(line: str) -> None:
    """Print a line. It is not an error if the reader, such as `head`, has closed the pipe."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discards later output, also at exit


def _number_of_heads(word: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", word):
        raise argparse.ArgumentTypeError(f"{word[:50]!r} is no number of heads: give a whole number above 0")
    return int(word)


def _models(_options: argparse.Namespace) -> int:
    for model in gptviz.MODELS.values():
        here = model.repo is None or hub.cached_folder(model.repo) is not None
        where = "here" if here else f"{model.n_bytes / 1e9:.1f} GB to download"
        _say(f"{model.name:<12} {model.n_parameters:>13,} parameters   {where:<20} {model.about}")
    return 0


def _next(options: argparse.Namespace) -> int:
    _check_text(options)
    trace = _engine(options).run(options.text, bos=options.bos)
    if not np.isfinite(trace.logits_at(-1)).all():
        raise gptviz.WeightsError(
            "The model's numbers are broken: its logits are NaN or infinite. Choose another model."
        )
    table = trace.top_k(k=options.k, temperature=options.temperature)
    _say(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    return 0


def _trace(options: argparse.Namespace) -> int:
    _check_text(options)
    if not options.out.parent.is_dir():
        raise FileNotFoundError(f"No such folder: {options.out.parent}. Name a file in a folder that is there.")
    engine = _engine(options)
    trace = engine.run(options.text, bos=options.bos, keep=gptviz.ACTIVATIONS)
    arrays: dict[str, Any] = {
        name if layer is None else f"{name}.{layer}": trace[name if layer is None else (name, layer)]
        for name, layer in keys(gptviz.ACTIVATIONS, engine.config["n_layers"])
    }
    arrays |= {"ids": np.array(trace.tokens.ids), "strings": np.array(trace.tokens.strings)}
    _save(options.out, arrays)
    _say(f"{len(arrays) - 2} activations of {len(trace)} tokens in {options.out}")
    return 0


def _train(options: argparse.Namespace) -> int:
    try:
        from gptviz.training import command
    except ModuleNotFoundError as error:
        print(f"gptviz: Training needs {error.name}: install gptviz[training].", file=sys.stderr)
        return 2
    return command.train(options)


def _check_text(options: argparse.Namespace) -> None:
    """Raise `EmptyTextError` for an empty text, before a model is loaded for it."""
    if not options.text and not options.bos:
        raise gptviz.EmptyTextError


def _save(path: Path, arrays: dict[str, Any]) -> None:
    """Write the arrays to exactly `path`: `np.savez` would append .npz to a name. A failure leaves no partial file."""
    with path.open("wb") as file:
        try:
            np.savez(file, **arrays)
        except BaseException:
            if path.is_file():
                path.unlink()
            raise


def _verify(options: argparse.Namespace) -> int:
    checks = verify.checks(_engine(options))
    for check in checks:
        _say(f"{_WORDS[check.passed]}  {check.name}: {check.figure}")
    return 1 if any(check.passed is False for check in checks) else 0


def _engine(options: argparse.Namespace) -> gptviz.Engine:
    engine = gptviz.load(options.model, n_heads=options.n_heads, progress=_print_progress)
    for note in engine.notes:
        print(f"gptviz: {note}", file=sys.stderr)
    return engine


def _print_progress(n_bytes: int, n_total: int) -> None:
    done = f"{n_bytes / 1e6:,.0f} of {n_total / 1e6:,.0f} MB"
    print(f"\rDownloading: {done}", end="" if n_bytes < n_total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
