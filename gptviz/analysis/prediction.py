"""How well the model predicted a text: every position's prediction compared with the token that really follows."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..numerics.chunks import chunks
from ..numerics.ranking import ranks
from ..tokens import strings_of
from ..trace import Trace

_CHUNK = 32  # positions whose logits are held at once: 200 kB each


def foreseen_token(trace: Trace, position: int) -> int:
    """Return the id of the token that follows a position in the text, or the most probable one after the last."""
    if position + 1 < len(trace):
        return trace.tokens.ids[position + 1]
    return int(trace.logits_at(position).argmax())


def prediction_table(trace: Trace) -> pd.DataFrame:
    """One row per position: the model's prediction of the next token, and the text's own next token.

    Columns: position; token; next_token (the text's own); probability of that token;
    surprisal_nats and surprisal_bits (minus its logarithm to base e and base 2); rank (1 is the most
    probable); top_token and top_probability (the model's first guess); entropy_bits of the
    whole distribution. In the last row, the columns that depend on the next token are missing.
    """
    strings, ids = trace.tokens.strings, trace.tokens.ids
    following = (*ids[1:], 0)  # nothing follows the last token: its columns are emptied below
    rows = []
    for some in chunks(len(trace), _CHUNK):
        for position, logits in enumerate(trace.logits_at(some), some.start):
            rows.append({"position": position, "token": strings[position]} | _foresight(logits, following[position]))
    table = pd.DataFrame(rows).astype({"rank": "Int64"})
    table.insert(2, "next_token", [*strings[1:], None])
    table.insert(7, "top_token", strings_of(table.pop("top_id").to_numpy()))
    table.loc[len(trace) - 1, ["probability", "surprisal_nats", "surprisal_bits", "rank"]] = None
    return table


def _foresight(logits: NDArray[np.float32], id: int) -> dict[str, float]:
    """What one position's logits [vocab_size] say about the next token `id`, and about the whole distribution.

    One position at a time is faster than all at once, because its numbers stay in the CPU cache.
    """
    top = int(logits.argmax())
    shifted = logits.astype(np.float64) - logits[top]
    exponentials = np.exp(shifted)
    total = exponentials.sum()
    surprisal = np.log(total) - shifted[id]
    return {
        "probability": np.exp(-surprisal),
        "surprisal_nats": surprisal,
        "surprisal_bits": surprisal / np.log(2),
        "rank": int(ranks(logits, np.array(id))),
        "top_id": top,
        "top_probability": 1 / total,
        "entropy_bits": (np.log(total) - exponentials @ shifted / total) / np.log(2),
    }
