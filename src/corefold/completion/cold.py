"""Predictions where the fit has no row or no column: means of the observed entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corefold.completion.biases import Biases
from corefold.completion.distributed import RowPartition
from corefold.completion.observed import Observed


@dataclass(frozen=True)
class ObservedMeans:
    """Means of a matrix's observed entries.

    Attributes:
        grand: of all entries, (1,).
        row: of each row; of one without an entry, the mean of all.
        column: of each column, likewise.
    """

    grand: Float[Tensor, " 1"]
    row: Float[Tensor, " height"]
    column: Float[Tensor, " width"]

    @classmethod
    def of(cls, observed: Observed, partition: RowPartition) -> ObservedMeans:
        """The means of these entries, columns over all processes."""
        values = observed.values
        ones = torch.ones(sum(observed.shape), 1, dtype=values.dtype, device=values.device)
        height = observed.shape[0]
        row_sums = observed.times(ones[height:])[:, 0]
        column_sums = partition.sum(observed.transposed_times(ones[:height])[:, 0])
        row_counts = observed.starts.diff().to(values)
        column_counts = partition.sum(observed.column_starts.diff().to(values))
        grand = (column_sums.sum() / column_counts.sum())[None]
        return cls(
            grand,
            torch.where(row_counts > 0, row_sums / row_counts.clamp(min=1), grand),
            torch.where(column_counts > 0, column_sums / column_counts.clamp(min=1), grand),
        )

    @classmethod
    def of_biases(cls, biases: Biases) -> ObservedMeans:
        """In their place the biases of a file that does not hold them."""
        grand = biases.row.new_tensor([biases.mean])
        return cls(grand, grand + biases.row, grand + biases.column)

    def entries(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Predictions of entries of which a row, a column or both are -1, which stands for none of the fit's."""
        by_side = torch.where(rows < 0, self.column[columns.clamp(min=0)], self.row[rows.clamp(min=0)])
        return torch.where((rows < 0) & (columns < 0), self.grand, by_side)
