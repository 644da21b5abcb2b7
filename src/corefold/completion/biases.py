"""The part of a matrix that its mean, its rows and its columns explain by themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
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
class Effects:
    """What features add to biases: `row features @ column slopes^T + row slopes @ column features^T`.

    Attributes:
        row_features: encoded, with no columns where rows have no features.
        column_features: likewise.
        row_prior: coefficients of the row features in the rows' biases.
        column_prior: likewise of the columns.
        row_slopes: each row's coefficients of the column features.
        column_slopes: each column's coefficients of the row features.
        ridge: of the row slopes.
        column_ridge: of the column slopes.
    """

    row_features: Float[Tensor, "height row_features"]
    column_features: Float[Tensor, "width column_features"]
    row_prior: Float[Tensor, " row_features"]
    column_prior: Float[Tensor, " column_features"]
    row_slopes: Float[Tensor, "height column_features"]
    column_slopes: Float[Tensor, "width row_features"]
    ridge: float
    column_ridge: float

    def at(self, observed: Observed) -> Float[Tensor, " entries"]:
        """At the observed places."""
        by_column = observed.products(self.row_features, self.column_slopes)
        return by_column + observed.products(self.row_slopes, self.column_features)

    def of_row_features(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What the features of rows add at single places."""
        return torch.linalg.vecdot(self.row_features[rows], self.column_slopes[columns])

    def of_column_features(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What the features of columns add."""
        return torch.linalg.vecdot(self.row_slopes[rows], self.column_features[columns])

    def dense(self) -> Float[Tensor, "height width"]:
        """At all places."""
        return self.row_features @ self.column_slopes.mT + self.row_slopes @ self.column_features.mT

    def of_rows(self, rows: Any) -> Effects:
        """Of some rows."""
        return replace(self, row_features=self.row_features[rows], row_slopes=self.row_slopes[rows])


@dataclass(frozen=True)
class Biases:
    """`mean + row + column`, each bias the more shrunken the fewer entries its row or column has.

    With `effects`, `row` and `column` hold what features explain of the biases too.
    """

    mean: float
    row: Float[Tensor, " height"]
    column: Float[Tensor, " width"]
    shrinkage: Shrinkage = NO_BIASES
    effects: Effects | None = None

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
                    likeliest(noise, freedom, row_square), likeliest(noise, column_freedom, column_square)
                )
        return cls(mean * peak, row * peak, column * peak, shrinkage)

    @property
    def fitted(self) -> bool:
        """Whether they are not all zero by choice."""
        return self.shrinkage != NO_BIASES

    def of_rows(self, rows: Any) -> Biases:
        """With the biases of some rows alone."""
        effects = None if self.effects is None else self.effects.of_rows(rows)
        return replace(self, row=self.row[rows], effects=effects)

    def for_rows(self, observed: Observed, features: Float[Tensor, "height row_features"] | None) -> Biases:
        """With the biases of these rows beside those of the columns.

        Args:
            observed: scores.
            features: of the rows, encoded; None for average ones.
        """
        residual = observed.values - self.mean - self.column[observed.columns]
        effects = self.effects
        if effects is None:
            row = _segment_sums(residual, observed.starts) / (observed.starts.diff() + self.shrinkage.row)
            return replace(self, row=row)
        features = (
            residual.new_zeros(observed.shape[0], len(effects.row_prior))
            if features is None
            else features.to(residual)
        )
        prior = features @ effects.row_prior
        residual -= prior[observed.row_of()] + observed.products(features, effects.column_slopes)
        others = effects.column_features
        design = torch.cat([others.new_ones(len(others), 1), others], 1)
        ridge = others.new_full((1, design.shape[1]), effects.ridge)
        ridge[0, 0] = self.shrinkage.row
        own = observed.with_values(residual).fit_rows(design, ridge)
        effects = replace(effects, row_features=features, row_slopes=own[:, 1:])
        return replace(self, row=prior + own[:, 0], effects=effects)

    def featured(self) -> tuple[Bool[Tensor, " height"], Bool[Tensor, " width"]]:
        """Of which rows and columns features are known: those that are not all average."""
        if self.effects is None:
            return torch.zeros_like(self.row, dtype=torch.bool), torch.zeros_like(
                self.column, dtype=torch.bool
            )
        return self.effects.row_features.any(1), self.effects.column_features.any(1)

    def at(self, observed: Observed) -> Float[Tensor, " entries"]:
        """The sum of the biases at the observed places."""
        biases = self.mean + self.row[observed.row_of()] + self.column[observed.columns]
        return biases if self.effects is None else biases + self.effects.at(observed)

    def entries(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The sum of the biases at single places."""
        biases, effects = self.mean + self.row[rows] + self.column[columns], self.effects
        if effects is None:
            return biases
        return biases + effects.of_row_features(rows, columns) + effects.of_column_features(rows, columns)

    def without_row(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The same with nothing known of the rows but their features."""
        biases, effects = self.mean + self.column[columns], self.effects
        if effects is None:
            return biases
        prior = effects.row_features @ effects.row_prior
        return biases + prior[rows] + effects.of_row_features(rows, columns)

    def without_column(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The same with nothing known of the columns but their features."""
        biases, effects = self.mean + self.row[rows], self.effects
        if effects is None:
            return biases
        prior = effects.column_features @ effects.column_prior
        return biases + prior[columns] + effects.of_column_features(rows, columns)

    def add_to(self, low: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
        """Add them to a matrix of all rows and columns, in place."""
        low.add_(self.row[:, None] + self.mean).add_(self.column)
        return low if self.effects is None else low.add_(self.effects.dense())


def likeliest(noise: float, freedom: float, square: float) -> float:
    """The ratio of the noise's variance to that of biases with this sum of squares, of which so many are settled."""
    if square <= noise * freedom / MAX_SHRINKAGE:
        return MAX_SHRINKAGE
    return max(noise * freedom / square, MIN_SHRINKAGE)


def _segment_sums(values: Tensor, starts: Tensor) -> Tensor:
    """Sums over runs of values."""
    return torch.segment_reduce(values, "sum", offsets=starts)
