"""How well the model foresaw a text: every position's prediction against the token that really follows."""

import numpy as np
import pandas as pd

from gptviz.analysis.sampling import log_softmax
from gptviz.tokens import gpt2_tokenizer
from gptviz.trace import Trace

_CHUNK = 32  # positions whose logits are held at once: 200 kB each


def prediction_table(trace: Trace) -> pd.DataFrame:
    """One row per position: what the model expected after it, and what the text goes on with.

    Columns: position; token; next_token (the text's own); probability of that token;
    surprisal_nats and surprisal_bits (minus its logarithm to e and to 2); rank (1 is the most
    probable); top_token and top_probability (the model's first guess); entropy_bits of the
    whole distribution. In the last row, what depends on the text's next token is missing.
    """
    strings, ids = trace.tokens.strings, np.array(trace.tokens.ids)
    rows = []
    for start in range(0, len(trace), _CHUNK):
        log_probabilities = log_softmax(trace.logits_at(slice(start, start + _CHUNK)))
        for position, row in enumerate(log_probabilities, start):
            top = int(row.argmax())
            following = ids[position + 1] if position + 1 < len(ids) else None
            log_probability = np.nan if following is None else row[following]
            rows.append(
                {
                    "position": position,
                    "token": strings[position],
                    "next_token": None if following is None else strings[position + 1],
                    "probability": np.exp(log_probability),
                    "surprisal_nats": -log_probability,
                    "surprisal_bits": -log_probability / np.log(2),
                    "rank": np.nan if following is None else 1 + np.count_nonzero(row > log_probability),
                    "top_token": gpt2_tokenizer().tokens([top]).strings[0],
                    "top_probability": np.exp(row[top]),
                    "entropy_bits": -(np.exp(row) * row).sum() / np.log(2),
                }
            )
    return pd.DataFrame(rows).astype({"rank": "Int64"})
