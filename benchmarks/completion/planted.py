"""Random matrices of low rank, given by their factors, and observed entries of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from corefold.completion.factors import LowRank

Triples = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, columns and values of entries
Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]  # values at rows and columns
ENTRIES_PER_ROW, RANK, NOISE = 100, 10, 0.1  # the matrices of the parts size and memory
VALUES_AT_ONCE = 10**5  # gathering the factors of all entries at once would need more memory than all else


@dataclass(frozen=True)
class PlantedMatrix:
    """Observed entries of `left @ right.T`, which has a root mean square of 1."""

    left: np.ndarray
    right: np.ndarray
    seen: Triples

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.left), len(self.right)

    def error(self, predict: Predict, count: int = 100_000) -> float:
        """The relative error of the predictions at random entries."""
        stream = np.random.default_rng(0)
        rows, columns = (stream.integers(0, side, count) for side in self.shape)
        truth = np.einsum("ij,ij->i", self.left[rows], self.right[columns])
        return float(np.linalg.norm(predict(rows, columns) - truth) / np.linalg.norm(truth))


def planted(
    seed: int, side: int, rank: int, entries: int, condition: float = 1.0, noise: float = 0.0
) -> PlantedMatrix:
    """About `entries` observed entries of a random square matrix; for `condition` see `random_factors`."""
    stream = np.random.default_rng(seed)
    left, right = random_factors(stream, side, rank, condition)
    left /= np.sqrt(np.sum((left.T @ left) * (right.T @ right))) / side
    # So many draws with replacement give about `entries` different places.
    draws = round(-(side**2) * np.log1p(-entries / side**2))
    place = np.unique(stream.integers(0, side**2, draws))
    rows, columns = (part.astype(np.int32) for part in np.divmod(place, side))
    values = _values(left, right, rows, columns)
    if noise:
        values += noise * stream.standard_normal(len(values))
    return PlantedMatrix(left, right, (rows, columns, values))


def random_factors(
    stream: np.random.Generator, side: int, rank: int, condition: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian factors; or, with a condition above 1, singular values that fall geometrically to 1/condition."""
    left, right = (stream.standard_normal((side, rank)) for _ in range(2))
    if condition > 1:
        left, right = (np.linalg.qr(part)[0] for part in (left, right))
        left = left * np.geomspace(1, 1 / condition, rank)
    return left, right


def _values(left: np.ndarray, right: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    out = np.empty(len(rows))
    for start in range(0, len(rows), VALUES_AT_ONCE):
        part = slice(start, start + VALUES_AT_ONCE)
        out[part] = np.einsum("ij,ij->i", left[rows[part]], right[columns[part]])
    return out


def entries_of(factors: LowRank) -> Predict:
    """The entries of a matrix in low-rank form."""
    return lambda rows, columns: torch.linalg.vecdot(factors.u[rows] * factors.s, factors.v[columns]).numpy()
