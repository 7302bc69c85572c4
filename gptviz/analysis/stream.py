"""The residual stream over depth: how long its vectors are, and what each part adds."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..numerics.vectors import cosine_similarity
from ..trace import Trace


class Added(NamedTuple):
    """One row per sub-layer in order (attention 0, MLP 0, attention 1, ...), one column per position."""

    norms_of_stream: NDArray[np.float64]  # [2 n_layers + 1, pos]: before the first sub-layer, and after each
    norms: NDArray[np.float64]  # [2 n_layers, pos]: Euclidean length of what it adds
    cosines: NDArray[np.float64]  # [2 n_layers, pos]: with the stream that it adds to; 0 if either is zero


def added_to_stream(trace: Trace) -> Added:
    """Lengths of the stream and of what each attention and MLP adds to it, and the cosine between the two."""
    stream_norms = [_norms(trace["resid_pre", 0])]
    norms, cosines = [], []
    for layer in range(trace.config["n_layers"]):
        for before, added, after in (("resid_pre", "attn_out", "resid_mid"), ("resid_mid", "mlp_out", "resid_post")):
            stream, vectors = _float64(trace[before, layer]), _float64(trace[added, layer])
            norms.append(_norms(vectors))
            lengths = norms[-1] * stream_norms[-1]
            products = np.einsum("pd,pd->p", stream, vectors)
            cosines.append(np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 0))
            stream_norms.append(_norms(trace[after, layer]))
    return Added(np.stack(stream_norms), np.stack(norms), np.stack(cosines))


def similarity_of_tokens(trace: Trace) -> NDArray[np.float64]:
    """Mean cosine between every two positions of the stream: [n_layers + 1], before each block and after the last.

    Near 1, all tokens have become nearly the same (rank collapse; Dong et al. 2021). NaN for a single token.
    """
    layers = trace.config["n_layers"]
    borders = [trace["resid_pre", layer] for layer in range(layers)] + [trace["resid_post", layers - 1]]
    n = len(trace)
    sums = np.array([cosine_similarity(vectors).sum(dtype=np.float64) for vectors in borders])
    return (sums - n) / (n * n - n) if n > 1 else np.full(len(borders), np.nan)


def _norms(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.linalg.norm(_float64(vectors), axis=-1)


def _float64(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(vectors, dtype=np.float64)
