"""Rows that say something twice, at distances that vary: they teach induction heads more than one distance."""

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.int64]


def repeated_random_row(ids: NDArray[np.integer], period: int, length: int, random: np.random.Generator) -> Row:
    """`period` different random ones of `ids`, over and over: [length].

    The tokens of the first period cannot be foreseen: do not count them as targets, or noise is learned.
    """
    once = ids[random.choice(len(ids), period, replace=False)]
    return np.resize(once, length).astype(np.int64)


def say_passage_again(row: Row, period: int, random: np.random.Generator) -> Row:
    """The row with a passage of `period` tokens from its first half written again somewhere after its end.

    [tokens] -> a new row of that shape; the passage has to fit in twice.
    """
    first = int(random.integers(0, len(row) - 2 * period + 1))
    again = int(random.integers(first + period, len(row) - period + 1))
    said = row.copy()
    said[again : again + period] = row[first : first + period]
    return said
