"""Two predictions side by side: before and after, one text and another, one model and another."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..numerics.ranking import top_ids
from ..numerics.sampling import log_softmax
from ..tokens import strings_of


def compare_next_tokens(first: NDArray[np.floating], second: NDArray[np.floating], k: int = 10) -> pd.DataFrame:
    """The k most probable tokens of each of two predictions [vocab_size], one token a row.

    The first's come first, in its order. Columns: token, id, first and second (probabilities over the
    whole vocabulary), change (second minus first, of log-probabilities in nats).
    """
    ids = np.array(list(dict.fromkeys([*top_ids(first, k).tolist(), *top_ids(second, k).tolist()])))
    logs = log_softmax(first)[ids], log_softmax(second)[ids]
    return pd.DataFrame(
        {
            "token": strings_of(ids),
            "id": ids,
            "first": np.exp(logs[0]),
            "second": np.exp(logs[1]),
            "change": logs[1] - logs[0],
        }
    )
