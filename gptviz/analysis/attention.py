"""Reading one head's pattern."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def strongest(weights: NDArray[np.floating], strings: Sequence[str], *, first: int = 0, k: int = 8) -> pd.DataFrame:
    """The k largest of some attention weights, one a row, the largest first.

    `weights` [n] are those of the positions `first`, `first` + 1, ...; `strings` are the whole
    text's tokens. Columns: position, token, weight. On a tie, the earlier position goes first.
    """
    order = np.argsort(-np.asarray(weights), kind="stable")[:k]
    positions = first + order
    return pd.DataFrame(
        {
            "position": positions,
            "token": [strings[position] for position in positions],
            "weight": np.asarray(weights)[order],
        }
    )
