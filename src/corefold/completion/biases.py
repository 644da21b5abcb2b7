"""The part of a matrix that its mean, its rows and its columns explain by themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.distributed import RowPartition
from corefold.completion.observed import Observed
from corefold.completion.units import column_sums

SWEEPS, LAST_SWEEPS = 12, 4  # the last ones with the same shrinkage
PRIOR_ENTRIES = 5.0  # of the first sweep
MIN_SHRINKAGE, MAX_SHRINKAGE = 1e-9, 1e6


@dataclass(frozen=True)
class Shrinkage:
    """How many more entries without a bias each row and each column is taken to have."""

    row: float
    column: float


NO_BIASES = Shrinkage(math.inf, math.inf)  # of a matrix without biases, for new rows too


@dataclass(frozen=True)
class Biases:
    """`mean + row + column`, each bias the more shrunken the fewer entries its row or column has."""

    mean: float
    row: Float[Tensor, " height"]
    column: Float[Tensor, " width"]
    shrinkage: Shrinkage = NO_BIASES

    @classmethod
    def none(cls, observed: Observed) -> Biases:
        """All zero, also for new rows."""
        height, width = observed.shape
        zeros = observed.values.new_zeros
        return cls(0.0, zeros(height), zeros(width))

    @classmethod
    def fit(cls, observed: Observed, partition: RowPartition) -> Biases:
        """By a few sweeps of alternating means, with the shrinkage that makes the values most likely.

        Biases of rows and of columns are taken for draws from two normal distributions, whose variances each sweep
        estimates from the biases and the number of them that the values settle (MacKay, Neural Computation 4, 1992).
        """
        peak = partition.max(observed.values.abs().amax() if len(observed) else observed.values.new_zeros(()))
        peak = float(peak) or 1.0
        values = observed.values / peak
        totals = partition.sum(torch.stack([values.sum(), values.new_tensor(float(len(values)))]))
        entries = float(totals[1])
        mean = float(totals[0]) / entries
        row_of = observed.row_of()
        row_counts = observed.starts.diff().to(values)
        column_counts = partition.sum(observed.column_starts.diff().to(values))
        shrinkage = Shrinkage(PRIOR_ENTRIES, PRIOR_ENTRIES)
        row, column = (values.new_zeros(side) for side in observed.shape)
        for sweep in range(SWEEPS):
            residual = values - mean - row[row_of]
            by_column = column_sums(observed, residual.index_select(0, observed.order))
            column = partition.sum(by_column) / (column_counts + shrinkage.column)
            residual = values - mean - column[observed.columns]
            row = _segment_sums(residual, observed.starts) / (row_counts + shrinkage.row)
            residual -= row[row_of]
            row_freedom = row_counts / (row_counts + shrinkage.row)
            sums = [row.square().sum(), row_freedom.sum(), residual.square().sum()]
            row_square, freedom, square = partition.sum(torch.stack(sums)).tolist()
            column_freedom = float((column_counts / (column_counts + shrinkage.column)).sum())
            noise = square / max(entries - freedom - column_freedom, 1.0)
            column_square = float(column.square().sum())
            if sweep < SWEEPS - LAST_SWEEPS:
                shrinkage = Shrinkage(
                    _likeliest(noise, freedom, row_square), _likeliest(noise, column_freedom, column_square)
                )
        return cls(mean * peak, row * peak, column * peak, shrinkage)

    @property
    def fitted(self) -> bool:
        """Whether they are not all zero by choice."""
        return self.shrinkage != NO_BIASES

    def rows_of(self, observed: Observed) -> Float[Tensor, " height"]:
        """Biases of these rows beside those of the columns."""
        residual = observed.values - self.mean - self.column[observed.columns]
        return _segment_sums(residual, observed.starts) / (observed.starts.diff() + self.shrinkage.row)

    def at(self, observed: Observed) -> Float[Tensor, " entries"]:
        """The sum of the biases at the observed places."""
        return self.mean + self.row[observed.row_of()] + self.column[observed.columns]


def _likeliest(noise: float, freedom: float, square: float) -> float:
    """The ratio of the noise's variance to that of biases with this sum of squares, of which so many are settled."""
    if square <= noise * freedom / MAX_SHRINKAGE:
        return MAX_SHRINKAGE
    return max(noise * freedom / square, MIN_SHRINKAGE)


def _segment_sums(values: Tensor, starts: Tensor) -> Tensor:
    """Sums over runs of values."""
    return torch.segment_reduce(values, "sum", offsets=starts)
