"""A vocabulary of which a text has few ids: each of these has an embedding row of its own, and all others share one.

The shared row counts in the softmax as often as there are ids that share it, so that every probability is the one that
the whole matrix would give. A file holds the few rows; written out, it is a GPT-2 of the usual form.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class SharedRow:
    """Which row belongs to which id: a row for each of `ids`, in rising order, and a last one for all other ids."""

    def __init__(self, ids: Sequence[int] | NDArray[np.integer], vocab_size: int) -> None:
        """Raises `ValueError` unless `ids` rise strictly, lie below `vocab_size`, and leave an id to share the row."""
        self.ids = np.asarray(ids, dtype=np.int64)
        self.vocab_size = vocab_size
        is_rising = self.ids.ndim == 1 and bool((np.diff(self.ids) > 0).all())
        in_range = len(self.ids) > 0 and self.ids[0] >= 0 and self.ids[-1] < vocab_size
        if not (is_rising and in_range and len(self.ids) < vocab_size):
            raise ValueError(f"The ids with rows of their own must rise, from 0 to below {vocab_size}, and not be all.")

    @property
    def n_rows(self) -> int:
        """One for each id of its own, and the shared one."""
        return len(self.ids) + 1

    @property
    def log_counts(self) -> Tensor:
        """What to add to the logits [n_rows] for a softmax over the whole vocabulary: ln(ids that have the row)."""
        counts = torch.ones(self.n_rows)
        counts[-1] = self.vocab_size - len(self.ids)
        return counts.log()

    def rows(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Ids of the vocabulary -> rows, in the same shape."""
        row_of = np.full(self.vocab_size, len(self.ids))
        row_of[self.ids] = np.arange(len(self.ids))
        return row_of[ids]

    def write_out(self, rows: Tensor) -> Tensor:
        """An embedding [n_rows, emb_dim] -> [vocab_size, emb_dim]: a row for each id, the shared one many times."""
        return rows[torch.from_numpy(self.rows(np.arange(self.vocab_size)))]
