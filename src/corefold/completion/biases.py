"""The part of a matrix that its mean, its rows and its columns explain by themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.distributed import RowPartition
from corefold.completion.observed import Observed

SWEEPS = 10
# Each bias is shrunken as if its row or column had this many more entries without one.
PRIOR_ENTRIES = 5.0


@dataclass(frozen=True)
class Biases:
    """`mean + row + column`, each bias the more shrunken the fewer entries its row or column has."""

    mean: float
    row: Float[Tensor, " height"]
    column: Float[Tensor, " width"]
    shrink: float = PRIOR_ENTRIES

    @classmethod
    def none(cls, observed: Observed) -> Biases:
        """All zero, also for new rows."""
        height, width = observed.shape
        zeros = observed.values.new_zeros
        return cls(0.0, zeros(height), zeros(width), shrink=math.inf)

    @classmethod
    def fit(cls, observed: Observed, partition: RowPartition) -> Biases:
        """By a few sweeps of alternating means."""
        values = observed.values
        total = partition.sum(torch.stack([values.sum(), values.new_tensor(float(len(values)))]))
        mean = float(total[0] / total[1])
        column = values.new_zeros(observed.shape[1])
        count = partition.sum(observed.column_starts.diff().to(values)) + PRIOR_ENTRIES
        row_of = observed.row_of()
        row = cls(mean, values.new_zeros(0), column).rows_of(observed)
        for _ in range(SWEEPS):
            residual = (values - mean - row[row_of]).index_select(0, observed.order)
            column = partition.sum(_segment_sums(residual, observed.column_starts)) / count
            row = cls(mean, row, column).rows_of(observed)
        return cls(mean, row, column)

    def rows_of(self, observed: Observed) -> Float[Tensor, " height"]:
        """Biases of these rows beside those of the columns."""
        residual = observed.values - self.mean - self.column[observed.columns]
        return _segment_sums(residual, observed.starts) / (observed.starts.diff() + self.shrink)

    def at(self, observed: Observed) -> Float[Tensor, " entries"]:
        """The sum of the biases at the observed places."""
        return self.mean + self.row[observed.row_of()] + self.column[observed.columns]


def _segment_sums(values: Tensor, starts: Tensor) -> Tensor:
    """Sums over runs of values."""
    return torch.segment_reduce(values, "sum", offsets=starts)
