"""How well the model foresaw a text: every position's prediction against the token that really follows."""

import numpy as np
import pandas as pd

from ..trace import Trace
from .ranking import ranks, strings_of
from .sampling import log_softmax

_CHUNK = 32  # positions whose logits are held at once: 200 kB each


def prediction_table(trace: Trace) -> pd.DataFrame:
    """One row per position: what the model expected after it, and what the text goes on with.

    Columns: position; token; next_token (the text's own); probability of that token;
    surprisal_nats and surprisal_bits (minus its logarithm to e and to 2); rank (1 is the most
    probable); top_token and top_probability (the model's first guess); entropy_bits of the
    whole distribution. In the last row, what depends on the text's next token is missing.
    """
    strings, ids = trace.tokens.strings, trace.tokens.ids
    following = np.array([*ids[1:], 0])  # nothing follows the last token: its columns are emptied below
    parts = []
    for start in range(0, len(trace), _CHUNK):
        rows = slice(start, start + _CHUNK)
        logits = trace.logits_at(rows)
        log_probabilities = log_softmax(logits)
        at = np.arange(len(logits))
        own, top = log_probabilities[at, following[rows]], log_probabilities.argmax(axis=-1)
        parts.append(
            pd.DataFrame(
                {
                    "position": start + at,
                    "token": strings[rows],
                    "next_token": (*strings, None)[start + 1 : start + 1 + len(at)],
                    "probability": np.exp(own),
                    "surprisal_nats": -own,
                    "surprisal_bits": -own / np.log(2),
                    "rank": ranks(logits, following[rows]),
                    "top_token": strings_of(top),
                    "top_probability": np.exp(log_probabilities[at, top]),
                    "entropy_bits": -(np.exp(log_probabilities) * log_probabilities).sum(axis=-1) / np.log(2),
                }
            )
        )
    table = pd.concat(parts, ignore_index=True).astype({"rank": "Int64"})
    table.loc[len(trace) - 1, ["probability", "surprisal_nats", "surprisal_bits", "rank"]] = None
    return table
