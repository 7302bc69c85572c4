"""Limits that whoever starts the app sets in environment variables, for a demo that is open to anyone."""

import os
from dataclasses import dataclass

import gptviz


class LimitsError(ValueError):
    """A limit that cannot be read; the message says which one, and what to change."""


@dataclass(frozen=True)
class Limits:
    """The current limits. SECURITY.md lists them in a table."""

    text: int  # characters of a text; the rest is left out
    new_tokens: int  # tokens that the model writes after a text
    computations: int  # computations that run at the same time
    waiting: int  # computations that may wait for a turn
    model_megabytes: int  # memory for loaded models and the cached results of their runs
    models: frozenset[str]  # named models that the app offers; always includes the bundled one


def read() -> Limits:
    """Read the limits from the environment. Raises `LimitsError`."""
    return Limits(
        text=_number("GPTVIZ_MAX_TEXT", 100_000),
        new_tokens=_number("GPTVIZ_MAX_NEW_TOKENS", 1024),
        computations=_number("GPTVIZ_MAX_COMPUTATIONS", 2),
        waiting=_number("GPTVIZ_MAX_WAITING", 100),
        model_megabytes=_number("GPTVIZ_MAX_MODEL_MB", 10_000),
        models=_models("GPTVIZ_ALLOWED_MODELS"),
    )


def _number(variable: str, usual: int) -> int:
    word = os.environ.get(variable, "")
    if not word:
        return usual
    if not word.isascii() or not word.isdigit() or not 0 < int(word[:10]) < 10**9:
        raise LimitsError(f"{variable} is {word[:50]!r}: make it a whole number from 1 to 999,999,999.")
    return int(word)


def _models(variable: str) -> frozenset[str]:
    words = os.environ.get(variable, "")
    names = frozenset(name.strip() for name in words.split(",") if name.strip())
    if unknown := sorted(names - set(gptviz.MODELS)):
        raise LimitsError(f"{variable} names {unknown[0][:50]!r}: known are {', '.join(gptviz.MODELS)}.")
    return (names or frozenset(gptviz.MODELS)) | {"story-gpt"}
