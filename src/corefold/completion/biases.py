"""What the mean, the rows and the columns say by themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.observed import Observed
from corefold.completion.distributed import Rows

SWEEPS = 10
SHRINK = 5.0  # as many entries of no bias at all; a row or column of few entries is believed the less


@dataclass(frozen=True)
class Biases:
    """`mean + row + column`, each shrunken by how few entries speak for it."""

    mean: float
    row: Float[Tensor, " height"]
    column: Float[Tensor, " width"]
    shrink: float = SHRINK

    @classmethod
    def none(cls, observed: Observed) -> Biases:
        height, width = observed.shape
        zeros = observed.values.new_zeros
        return cls(0.0, zeros(height), zeros(width), shrink=math.inf)

    @classmethod
    def fit(cls, observed: Observed, rows: Rows) -> Biases:
        """By a few sweeps of alternating means."""
        values = observed.values
        total = rows.sum(torch.stack([values.sum(), values.new_tensor(float(len(values)))]))
        mean = float(total[0] / total[1])
        column = values.new_zeros(observed.shape[1])
        count = rows.sum(observed.column_starts.diff().to(values)) + SHRINK
        row_of = observed.row_of()
        row = cls(mean, values.new_zeros(0), column).rows_of(observed)
        for _ in range(SWEEPS):
            left = (values - mean - row[row_of]).index_select(0, observed.order)
            column = rows.sum(_sums(left, observed.column_starts)) / count
            row = cls(mean, row, column).rows_of(observed)
        return cls(mean, row, column)

    def rows_of(self, observed: Observed) -> Float[Tensor, " height"]:
        """Biases of these rows, given those of the columns."""
        left = observed.values - self.mean - self.column[observed.columns]
        return _sums(left, observed.starts) / (observed.starts.diff() + self.shrink)

    def at(self, observed: Observed) -> Float[Tensor, " entries"]:
        return self.mean + self.row[observed.row_of()] + self.column[observed.columns]


def _sums(values: Tensor, starts: Tensor) -> Tensor:
    """Sums of runs of values."""
    return torch.segment_reduce(values, "sum", offsets=starts)
