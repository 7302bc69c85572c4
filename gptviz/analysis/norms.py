"""What a LayerNorm does to every token's vector: its mean and variance at each stage."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..numerics.operations import layer_norm


def norm_table(before: NDArray[np.floating], after: NDArray[np.floating]) -> pd.DataFrame:
    """Mean and variance of each vector before a LayerNorm, normalised, and after gain and bias; one row per position.

    `before` and `after` are what the LayerNorm reads and returns: [pos, emb_dim]. The normalised vector is
    computed in float64, without gain and bias. The variance is the biased one, as in the model.
    """
    normalised = layer_norm(before, np.ones(1), np.zeros(1))
    stages = {"before": before, "normalised": normalised, "after gain and bias": after}
    return pd.DataFrame(
        {
            f"{name} {stage}": getattr(np, function)(vectors, axis=-1, dtype=np.float64)
            for stage, vectors in stages.items()
            for name, function in (("mean", "mean"), ("variance", "var"))
        }
    )
