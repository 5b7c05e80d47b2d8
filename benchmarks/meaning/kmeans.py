"""k-means on vectors of length 1: what plain clustering of the same embeddings reaches."""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
STARTS, STEPS = 10, 100


def kmeans(vectors: Vectors, clusters: int, seed: int = 7) -> list[int]:
    """The cluster of each vector: the best of some starts by the squared distances, each begun by k-means++.

    Arthur & Vassilvitskii (2007), k-means++: the advantages of careful seeding, SODA, 1027-1035.
    """
    random = np.random.default_rng(seed)
    runs = [_run(vectors, _begin(vectors, clusters, random)) for _ in range(STARTS)]
    return min(runs, key=lambda run: run[1])[0]


def _begin(vectors: Vectors, clusters: int, random: np.random.Generator) -> Vectors:
    chosen = [vectors[random.integers(len(vectors))]]
    while len(chosen) < clusters:
        nearest = _distances(vectors, np.array(chosen)).min(axis=1)
        chosen.append(vectors[random.choice(len(vectors), p=nearest / nearest.sum())])
    return np.array(chosen)


def _run(vectors: Vectors, centres: Vectors) -> tuple[list[int], float]:
    assigned = np.full(len(vectors), -1)
    for _ in range(STEPS):
        distances = _distances(vectors, centres)
        nearest = distances.argmin(axis=1)
        if (nearest == assigned).all():
            break
        assigned = nearest
        for cluster in np.unique(assigned):
            centres[cluster] = vectors[assigned == cluster].mean(axis=0)
    return assigned.tolist(), float(_distances(vectors, centres).min(axis=1).sum())


def _distances(vectors: Vectors, centres: Vectors) -> Vectors:
    """The squared distance of every vector to every centre."""
    squares = (vectors**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * vectors @ centres.T
    return np.maximum(squares, 0)
