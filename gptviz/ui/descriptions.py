"""Wording of what a chart shows, for people who cannot see it: the few numbers that matter, as plain text.

Numbers come from the arrays that the chart draws. NaN and infinite values, which no chart draws, are left out. Where
no number is left, a description says so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from gptviz.charts.theme import cut

Write = Callable[[float], str]  # a number as text

NONE, NO_NUMBERS = "none", "no numbers"
MOST = 3  # of a list, how many are named
_SPELLED = 2  # characters of a token, at most, that are named one by one
_NAMES = {
    "␣": "a space",
    "↵": "a line break",
    "⇥": "a tab",
    "␍": "a carriage return",
    ".": "a full stop",
    ",": "a comma",
    ";": "a semicolon",
    ":": "a colon",
    "!": "an exclamation mark",
    "?": "a question mark",
    '"': "a quotation mark",
    "'": "an apostrophe",
    "“": "an opening quotation mark",
    "”": "a closing quotation mark",
    "‘": "an opening single quotation mark",
    "’": "a closing single quotation mark",
    "(": "an opening parenthesis",
    ")": "a closing parenthesis",
    "-": "a hyphen",
    "–": "an en dash",
    "—": "an em dash",
    "…": "an ellipsis",
}


# --- names and numbers -------------------------------------------------------------------------


def token(string: str) -> str:
    """Return a token as a sentence names it: punctuation in words, since a screen reader may not say it; long ones cut.

    `string` is the token as `gptviz.tokens.display` shows it, so control characters are visible already.
    """
    if 0 < len(string) <= _SPELLED and all(character in _NAMES for character in string):
        return " and ".join(_NAMES[character] for character in string)
    return cut(string)


def tokens(strings: Iterable[str]) -> list[str]:
    """Return every token as `token` does."""
    return [token(string) for string in strings]


def placed(strings: Sequence[str], first: int = 0) -> list[str]:
    """Return every token with its position, which tells equal tokens apart. `first` is the first one's position."""
    return [f"{token(string)} (position {at})" for at, string in enumerate(strings, first)]


def numbered(name: str, n: int) -> list[str]:
    """Return `n` names with numbers: "head 0", "head 1", and so on."""
    return [f"{name} {number}" for number in range(n)]


def heads(n_layers: int, n_heads: int) -> list[str]:
    """Return the heads' names, L0H0 first, in the order of a raveled array [layer, head]."""
    return [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]


def number(value: float) -> str:
    """Return a number with three digits, or without decimals from 100 on. The minus sign is one that is read aloud."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value + 0.0:.3g}"  # + 0.0 makes -0 a plain 0
    return text.replace("-", "\u2212", 1) if value < 0 else text


def percent(share: float) -> str:
    """Return a share as the charts of predictions write it."""
    return f"{share:.1%}"


# --- lists -------------------------------------------------------------------------------------


def listed(items: Sequence[str], most: int = MOST, between: str = ", ") -> str:
    """Return the first `most` items, and how many more there are."""
    more = len(items) - most
    return between.join([*items[:most], *([f"and {more:,} more"] if more > 0 else [])]) or NONE


def valued(names: Sequence[str], values: ArrayLike, write: Write = number) -> list[str]:
    """Return each name with its value, in their order; those without a value are left out."""
    pairs = zip(names, np.asarray(values, dtype=float).tolist(), strict=True)
    return [f"{name} {write(value)}" for name, value in pairs if np.isfinite(value)]


def largest(names: Sequence[str], values: ArrayLike, write: Write = number, most: int = MOST) -> str:
    """Return the `most` largest values with their names, the largest first; of equal ones, the earlier."""
    found = np.asarray(values, dtype=float)
    order = np.argsort(-np.where(np.isfinite(found), found, -np.inf), kind="stable")[:most]
    return ", ".join(valued([names[at] for at in order], found[order], write)) or NO_NUMBERS


def extremes(names: Sequence[str], values: ArrayLike) -> str:
    """Return the highest and the lowest value with their names: `extreme_cells` of a single row without a name."""
    return extreme_cells(np.asarray(values, dtype=float)[None], [""], names)


def changes(table: pd.DataFrame, first: str, second: str) -> str:
    """Return the first tokens of `compare_next_tokens` with both probabilities; `first` and `second` name the sides."""
    rows = zip(tokens(table["token"].tolist()), table["first"].tolist(), table["second"].tolist(), strict=True)
    return listed([f"{name} {percent(one)} {first} and {percent(other)} {second}" for name, one, other in rows])


def spreads(names: Sequence[str], own: NDArray[np.floating], runs: NDArray[np.floating], write: Write) -> str:
    """Return the largest of some numbers, with their ends over the runs: `own` is [number], `runs` [run, number]."""
    order = np.argsort(-own, kind="stable")
    lows, highs = runs.min(axis=0), runs.max(axis=0)
    return listed(
        [f"{names[at]} {write(own[at])} ({write(lows[at])} to {write(highs[at])} in the runs)" for at in order]
    )


# --- maps --------------------------------------------------------------------------------------


def past(values: NDArray[np.floating], *, itself: bool = True) -> NDArray[np.floating]:
    """Return a map [pos, pos] with NaN above the diagonal, and on it unless `itself`."""
    return np.where(np.tri(len(values), k=0 if itself else -1, dtype=bool), values, np.nan)


def largest_cell(values: NDArray[np.floating], rows: Sequence[str], columns: Sequence[str]) -> str:
    """Return the largest number of a map [row, column], with its place; of equal ones, the first."""
    found = _finite(values)
    return NO_NUMBERS if found is None else _cell(found, int(np.nanargmax(found)), rows, columns)


def extreme_cells(values: NDArray[np.floating], rows: Sequence[str], columns: Sequence[str]) -> str:
    """Return the highest and the lowest number of a map [row, column], with their places; of equal ones, the first.

    A single number is given once, and where all are equal there is no place to name.
    """
    found = _finite(values)
    if found is None:
        return NO_NUMBERS
    high, low = int(np.nanargmax(found)), int(np.nanargmin(found))
    if np.isfinite(found).sum() == 1:
        return _cell(found, high, rows, columns)
    if np.nanmax(found) == np.nanmin(found):
        return f"{number(float(np.nanmax(found)))} everywhere"
    return f"highest {_cell(found, high, rows, columns)}, lowest {_cell(found, low, rows, columns)}"


def largest_weight(weights: NDArray[np.floating], strings: Sequence[str], first: int = 0) -> str:
    """Return the largest number of a head's map [query, key], the future left out. `first` is as in `placed`.

    The text's first token can only look at itself, so its row is left out too, unless there is no other.
    """
    skipped = 1 if first == 0 and len(strings) > 1 else 0
    queries, keys = _queries_and_keys(strings, first)
    cell = largest_cell(past(weights)[skipped:], queries[skipped:], keys)
    return f"largest below the first row {cell}" if skipped else f"largest {cell}"


def extreme_pairs(values: NDArray[np.floating], strings: Sequence[str]) -> str:
    """Return the highest and the lowest number of a head's map [query, key]."""
    return extreme_cells(values, *_queries_and_keys(strings))


def _queries_and_keys(strings: Sequence[str], first: int = 0) -> tuple[list[str], list[str]]:
    names = placed(strings, first)
    return [f"query {name}" for name in names], [f"key {name}" for name in names]


def _finite(values: NDArray[np.floating]) -> NDArray[np.floating] | None:
    """The values with NaN for all that are not finite; None if no number is left."""
    is_finite = np.isfinite(values)
    return np.where(is_finite, values, np.nan) if is_finite.any() else None


def _cell(values: NDArray[np.floating], at: int, rows: Sequence[str], columns: Sequence[str]) -> str:
    row, column = divmod(at, values.shape[1])
    return f"{number(float(values[row, column]))} for {', '.join(filter(None, (rows[row], columns[column])))}"


# --- lines -------------------------------------------------------------------------------------


def ends(values: ArrayLike, write: Write = number) -> str:
    """Return the first and the last number of a line."""
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    return f"from {write(found[0])} to {write(found[-1])}" if found.size else NO_NUMBERS


def courses(series: Mapping[str, ArrayLike], write: Write = number, most: int = MOST) -> str:
    """Return the first and the last number of every line: name -> numbers."""
    return listed([f"{name} {ends(values, write)}" for name, values in series.items()], most, between="; ")


def lens_course(strings: NDArray[np.str_], probabilities: NDArray[np.floating], labels: Sequence[str]) -> str:
    """Return what a logit lens reads first and last at one position; all three are [point]."""
    return ", ".join(f"{token(strings[at])} {percent(probabilities[at])} at {labels[at]}" for at in (0, -1))
