"""Lengths of vectors, cosines between them, and their principal components."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64


class PrincipalComponents(NamedTuple):
    """Coordinates of vectors along the directions in which they vary most."""

    coordinates: Float64[np.ndarray, "vector component"]
    explained: Float64[np.ndarray, " component"]  # share of the total variance, 0 to 1


def norms(vectors: Float[np.ndarray, "vector dim"]) -> Float[np.ndarray, " vector"]:
    """Euclidean length of each row. Makes no copy of the vectors."""
    return np.sqrt(np.einsum("vd,vd->v", vectors, vectors))


def cosine_similarity(vectors: Float[np.ndarray, "vector dim"]) -> Float64[np.ndarray, "vector vector"]:
    """Cosine between every two rows, from -1 to 1; 0 for a zero vector."""
    vectors = np.asarray(vectors, dtype=np.float64)
    directions = vectors / nonzero(norms(vectors))[:, None]
    return np.clip(directions @ directions.T, -1, 1)


def principal_components(vectors: Float[np.ndarray, "vector dim"], n_components: int = 3) -> PrincipalComponents:
    """PCA by singular value decomposition of the centred vectors (Jolliffe 2002).

    Components beyond those that the vectors can have are 0. A component's sign is arbitrary; as in
    scikit-learn, it is set to make the component's largest weight positive.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    left, singular, components = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    largest = np.abs(components).argmax(axis=1)
    signs = np.where(components[np.arange(len(components)), largest] < 0, -1.0, 1.0)
    variances = singular**2

    n_found = min(n_components, len(singular))
    coordinates, explained = np.zeros((len(vectors), n_components)), np.zeros(n_components)
    coordinates[:, :n_found] = (left * singular * signs)[:, :n_found]
    explained[:n_found] = variances[:n_found] / nonzero(variances.sum(keepdims=True))
    return PrincipalComponents(coordinates, explained)


def nonzero(lengths: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Replace 0 by 1, so that dividing by these lengths leaves zero vectors zero."""
    return np.where(lengths == 0, 1, lengths)
