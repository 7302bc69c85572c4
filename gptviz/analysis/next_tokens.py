"""Two predictions side by side: before and after a change, of two texts, or of two models."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..numerics.ranking import top_ids
from ..numerics.sampling import log_softmax
from ..tokens import strings_of


def compare_next_tokens(first: NDArray[np.floating], second: NDArray[np.floating], k: int = 10) -> pd.DataFrame:
    """The k most probable tokens of each of two predictions, logits [vocab_size], one row per token.

    Those of the first prediction come first, in its order. Columns: token, id, first and second (probabilities
    over the whole vocabulary), change (of the log-probability in nats, second minus first).
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
