"""Compares one vector with many, by name."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


class VectorIndex:
    """Vectors by name, none of them zero. It needs the extra `local-embeddings`, which installs numpy."""

    def __init__(self, vectors: Mapping[str, Sequence[float]]) -> None:
        self._numpy: Any = import_module("numpy")
        matrix = self._numpy.array([*vectors.values()])
        self._names = [*vectors]
        self._matrix = matrix / self._numpy.linalg.norm(matrix, axis=1, keepdims=True) if vectors else matrix

    def likeness(self, vector: Sequence[float]) -> dict[str, float]:
        """The cosine of each vector with one of length 1, by name: from -1 to 1."""
        if not self._names:
            return {}
        return dict(zip(self._names, (self._matrix @ self._numpy.array(vector)).tolist(), strict=True))
