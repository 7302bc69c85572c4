"""Vectors: their lengths, the angles between them, and their main directions."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class PrincipalComponents(NamedTuple):
    """Vectors seen along the directions in which they differ most."""

    coordinates: NDArray[np.float64]  # [vector, component]
    explained: NDArray[np.float64]  # [component]: share of the whole variance, 0 to 1


def norms(vectors: Floats) -> Floats:
    """Euclidean length of each row: [vector, dim] -> [vector]. Makes no copy of the vectors."""
    return np.sqrt(np.einsum("vd,vd->v", vectors, vectors))


def cosine_similarity(vectors: Floats) -> NDArray[np.float64]:
    """Cosine between every two rows: [vector, dim] -> [vector, vector], from -1 to 1. A zero vector has 0 with all."""
    vectors = np.asarray(vectors, dtype=np.float64)
    directions = vectors / nonzero(norms(vectors))[:, None]
    return np.clip(directions @ directions.T, -1, 1)


def principal_components(vectors: Floats, n_components: int = 3) -> PrincipalComponents:
    """PCA by the singular values of the centred vectors [vector, dim] (Jolliffe 2002).

    Components that so few vectors cannot have are 0. A component's sign means nothing; it is
    set as in scikit-learn: its largest weight is positive.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    left, singular, components = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    largest = np.abs(components).argmax(axis=1)
    signs = np.where(components[np.arange(len(components)), largest] < 0, -1.0, 1.0)
    variances = singular**2

    n_found = min(n_components, len(singular))
    coordinates, explained = np.zeros((len(vectors), n_components)), np.zeros(n_components)
    coordinates[:, :n_found] = (left * singular * signs)[:, :n_found]
    explained[:n_found] = variances[:n_found] / nonzero(variances.sum())
    return PrincipalComponents(coordinates, explained)


def nonzero(lengths: Floats) -> Floats:
    """With 1 in the place of 0, for a division that leaves zero vectors zero."""
    return np.where(lengths == 0, 1, lengths)
