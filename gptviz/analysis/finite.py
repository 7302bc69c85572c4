"""Check for NaN and infinite values in a run: a broken model gives NaN, or overflows."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..trace import Trace


def not_finite(trace: Trace) -> pd.DataFrame:
    """Count the values that are NaN or infinite, one row per place in the model, in the order of the data.

    Columns: where ("into layer 0" to "out of layer N", "logits of the last token"), broken, values.
    """
    n_layers = trace.config["n_layers"]
    places: dict[str, NDArray[Any]] = {f"into layer {layer}": trace["resid_pre", layer] for layer in range(n_layers)}
    places[f"out of layer {n_layers - 1}"] = trace["resid_post", n_layers - 1]
    places["logits of the last token"] = trace.logits_at(-1)
    return pd.DataFrame(
        {
            "where": list(places),
            "broken": [array.size - int(np.isfinite(array).sum()) for array in places.values()],
            "values": [array.size for array in places.values()],
        }
    )
