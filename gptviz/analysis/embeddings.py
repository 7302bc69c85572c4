"""Nearest tokens of the vocabulary to a vector."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..numerics.vectors import nonzero
from ..tokens import strings_of

Floats = NDArray[np.floating]


def nearest_tokens(
    vector: Floats, embeddings: Floats, embedding_norms: Floats, *, k: int = 10, without: Collection[int] = ()
) -> pd.DataFrame:
    """The k tokens whose embeddings have the highest cosine with `vector` [emb_dim], the nearest first.

    `embeddings` is [vocab_size, emb_dim]. To avoid a normalised copy of it, the products are divided by
    `embedding_norms` (see `norms`; compute them once). Ids in `without` are left out.
    Columns: token, id, cosine.
    """
    length = np.sqrt(np.dot(vector, vector))
    cosines = (embeddings @ vector) / nonzero(embedding_norms * length)
    cosines[list(without)] = -np.inf
    k = min(k, len(cosines) - len(set(without)))
    nearest = np.argpartition(-cosines, k - 1)[:k]
    nearest = nearest[np.lexsort((nearest, -cosines[nearest]))]
    return pd.DataFrame({"token": strings_of(nearest), "id": nearest, "cosine": np.clip(cosines[nearest], -1, 1)})
