"""A weighted mean of completed matrices, and the widths of its intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corefold.completion.biases import Biases
from corefold.completion.calibration import Calibration, deviations, summary
from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.model import CompletedMatrix, PredictedRows
from corefold.completion.observed import Observed
from corefold.completion.units import ColumnSpread

MAX_ROUNDS, MIN_LENGTH = 200, 1e-9


@dataclass(frozen=True)
class BlendedRows:
    """Rows of predictions, the weighted mean of those of the members."""

    members: tuple[PredictedRows, ...]
    weights: tuple[float, ...]

    def entries(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Single entries."""
        return self._mean(member.entries(rows, columns) for member in self.members)

    def dense(self) -> Float[Tensor, "height width"]:
        """All entries."""
        return self._mean(member.dense() for member in self.members)

    def _mean(self, predictions: Iterable[Tensor]) -> Tensor:
        parts = (
            each if weight == 1 else each * weight
            for weight, each in zip(self.weights, predictions, strict=True)
        )
        return reduce(Tensor.add_, parts)  # of one member, to the bit


@dataclass(frozen=True)
class Blend:
    """Completed matrices and their weights, the first one's the largest.

    Attributes:
        members: the matrices.
        weights: positive, with the sum 1.
        calibration: the widths of intervals.
    """

    members: tuple[CompletedMatrix, ...]
    weights: tuple[float, ...]
    calibration: Calibration

    @property
    def main(self) -> CompletedMatrix:
        """The member of the largest weight."""
        return self.members[0]

    @cached_property
    def factors(self) -> LowRank:
        """The main member's low-rank part, in units of the data where these are linear."""
        return self.main.low_rank_part()

    @property
    def biases(self) -> Biases:
        """The main member's biases."""
        return self.main.biases

    def calibrated(self, observed: Observed, partition: RowPartition) -> Blend:
        """With the held-out errors of all processes, and what the fitted entries say of columns and of cold places."""
        spread = ColumnSpread.of(observed, partition).deviation.to(observed.values)
        kept = (self.calibration.errors, self.calibration.columns, self.calibration.scores)
        errors, columns, scores = (partition.gather(each) for each in kept)
        deviation = deviations(errors, columns.long(), spread)
        column = observed.columns
        cold_row = summary(
            partition.gather((observed.values - self.main.without_row(column)) / deviation[column])
        )
        sums = torch.stack([observed.values.sum(), observed.values.new_tensor(float(len(observed)))])
        total, count = partition.sum(sums)
        cold_column = summary(partition.gather(observed.values - total / count))
        of_row, of_column = self.calibration.featured_row, self.calibration.featured_column
        if len(of_row):
            of_row = of_row / deviation[columns.long()]
        featured = (summary(each) for each in (of_row, of_column))
        return replace(
            self,
            calibration=Calibration(errors, columns, scores, deviation, cold_row, cold_column, *featured),
        )

    def predicted(self, rows: Int[Tensor, " n"] | slice = slice(None)) -> BlendedRows:
        """Predictions of these of its rows."""
        return BlendedRows(tuple(member.predicted(rows) for member in self.members), self.weights)

    def entries(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Single entries."""
        return self.predicted(rows).entries(torch.arange(len(rows), device=rows.device), columns)

    def fold_in(
        self, observed: Observed, features: Float[Tensor, "height row_features"] | None = None
    ) -> BlendedRows:
        """Predictions of other rows with the same columns, and with these features."""
        return BlendedRows(tuple(member.fold_in(observed, features) for member in self.members), self.weights)

    def margins(
        self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"], coverage: float
    ) -> Float[Tensor, " n"]:
        """Half the widths of intervals that cover single entries with this probability, -1 for none of the fit's.

        Infinite where there are too few errors.
        """
        row, column = rows.clamp(min=0), columns.clamp(min=0)
        seen = (rows >= 0) & self.main.seen_rows[row], (columns >= 0) & self.main.seen_columns[column]
        featured_rows, featured_columns = self.main.cold.featured()
        featured = (rows >= 0) & featured_rows[row], (columns >= 0) & featured_columns[column]
        return self.margins_of(seen, featured, column, coverage)

    def margins_of(
        self, seen: tuple[Tensor, Tensor], featured: tuple[Tensor, Tensor], columns: Tensor, coverage: float
    ) -> Float[Tensor, " n"]:
        """The same where rows and columns have observed entries or not, and features or none."""
        margin = self.calibration.margins(coverage)[columns]
        by_means = self.calibration.cold_margins(coverage, featured=False)
        by_features = self.calibration.cold_margins(coverage, featured=True)
        cold_row = torch.where(featured[0], by_features[0][columns], by_means[0][columns])
        cold_column = torch.where(featured[1], by_features[1], by_means[1])
        margin = torch.where(seen[0], margin, cold_row.maximum(margin))
        return torch.where(seen[1], margin, cold_column.to(margin).maximum(margin))

    def tensors(self) -> dict[str, Tensor]:
        """All of its tensors by the names that a file gives them: those of the main member, then of the others."""
        named = self.main.tensors() | self.calibration.tensors()
        for place, member in enumerate(self.members[1:], 1):
            named |= {f"{place}.{name}": tensor for name, tensor in member.tensors().items()}
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return named | ({"weights": weights} if len(self.members) > 1 else {})

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor]) -> Blend:
        """The blend with the tensors that `tensors` returned; a file without weights has one member."""
        weights = tuple(named["weights"].tolist()) if "weights" in named else (1.0,)
        parts = [named] + [_under(f"{place}.", named) for place in range(1, len(weights))]
        members = tuple(CompletedMatrix.from_tensors(part) for part in parts)
        return cls(members, weights, Calibration.from_tensors(named, len(members[0].factors.v)))


def blend_weights(gram: Float[Tensor, "walks walks"]) -> Float[Tensor, " walks"]:
    """The weights, not negative and with the sum 1, that make the mean square of the weighted errors least.

    Args:
        gram: mean products of the errors of each two.

    Source: Wolpert, Neural Networks 5 (1992), for stacking; Breiman, Machine Learning 24 (1996), for these weights;
    computed by the Frank-Wolfe algorithm.
    """
    weights = torch.zeros(len(gram), dtype=gram.dtype)
    weights[gram.diagonal().argmin()] = 1.0
    for _ in range(MAX_ROUNDS):
        slope = gram @ weights
        direction = -weights
        direction[slope.argmin()] += 1.0
        curvature = float(direction @ gram @ direction)
        length = min(-float(slope @ direction) / curvature, 1.0) if curvature > 0 else 0.0
        if length <= MIN_LENGTH:
            break
        weights = weights + length * direction
    return weights


def _under(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
