"""A completed matrix: biases and a low-rank part, the regression that adds rows to it, and how far off it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corefold.completion.biases import Biases
from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed


@dataclass(frozen=True)
class PredictedRows:
    """Rows of predictions, `mean + row bias + column bias + coordinates loadings^T`."""

    biases: Biases
    coordinates: Float[Tensor, "height rank"]
    loadings: Float[Tensor, "width rank"]

    def entries(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Single entries."""
        low = torch.linalg.vecdot(self.coordinates[rows], self.loadings[columns])
        return self.biases.mean + self.biases.row[rows] + self.biases.column[columns] + low

    def dense(self) -> Float[Tensor, "height width"]:
        """All entries."""
        low = self.coordinates @ self.loadings.mT
        return low.add_(self.biases.row[:, None] + self.biases.mean).add_(self.biases.column)


@dataclass(frozen=True)
class RowRegression:
    """The ridge regression that gives a row its coordinates: `min_c |values - loadings c|^2 + sum_k ridge_k c_k^2`.

    Attributes:
        loadings: a basis of the rows. After a fit these are the right singular vectors; `partial_fit` moves them.
        scales: root of the sum of squares of each coordinate over the rows fitted, their singular values.
        ridge: the fit's penalty on the coordinates.
        spread: variances of the loadings, where they are the mean of a distribution: each observed entry of a row adds
            its column's variances to the ridge.
    """

    loadings: Float[Tensor, "width rank"]
    scales: Float[Tensor, " rank"]
    ridge: Float[Tensor, " rank"]
    spread: Float[Tensor, "width rank"]

    def coordinates(self, residual: Observed) -> Float[Tensor, "height rank"]:
        """The coordinates of rows, from their observed values less the biases."""
        coefficients = residual.fit_rows(self.loadings, self.ridge + residual.counts(self.spread))
        return torch.where(self.scales > 0, coefficients, 0)


@dataclass(frozen=True)
class CompletedMatrix:
    """`mean + row bias + column bias + u diag(s) v^T`, in the units of the data.

    Attributes:
        biases: all zero where the fit had none.
        factors: the low-rank part.
        column_shares: the share of the fitted rows in which each column is observed.
        regression: how other rows get their coordinates.
        held_out_errors: absolute errors at held-out entries, ascending; the fit used these entries only to choose where
            to stop.
    """

    biases: Biases
    factors: LowRank
    column_shares: Float[Tensor, " width"]
    regression: RowRegression
    held_out_errors: Float[Tensor, " held_out"]

    def with_errors_of_all(self, partition: RowPartition) -> CompletedMatrix:
        """With the held-out errors of all processes."""
        if partition.process_count == 1:
            return self
        return replace(self, held_out_errors=partition.gather(self.held_out_errors).sort().values)

    def predicted(self, rows: Int[Tensor, " n"] | slice = slice(None)) -> PredictedRows:
        """Predictions of these of its rows."""
        biases = replace(self.biases, row=self.biases.row[rows])
        return PredictedRows(biases, self.factors.u[rows] * self.factors.s, self.factors.v)

    def entries(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Single entries."""
        return self.predicted(rows).entries(torch.arange(len(rows), device=rows.device), columns)

    def fold_in(self, observed: Observed) -> PredictedRows:
        """Predictions of other rows with the same columns: each row's bias, then its ridge regression."""
        biases = replace(self.biases, row=self.biases.rows_of(observed))
        residual = observed.with_values(observed.values - biases.at(observed))
        return PredictedRows(biases, self.regression.coordinates(residual), self.regression.loadings)

    def start_for(self, observed: Observed, partition: RowPartition) -> LowRank:
        """The start of a fit to other rows: their coordinates among these columns."""
        rows = self.fold_in(observed)
        return LowRank.product(rows.coordinates, rows.loadings, partition)

    def margin(self, coverage: float) -> float:
        """Half the width of an interval that covers a new entry with this probability (split-conformal).

        Infinite if that takes more held-out entries than there are.

        Source: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman 2018, section 2.2.
        """
        place = math.ceil((len(self.held_out_errors) + 1) * coverage)
        return float(self.held_out_errors[place - 1]) if place <= len(self.held_out_errors) else math.inf

    def tensors(self) -> dict[str, Tensor]:
        """All of its tensors by the names that a file gives them."""
        biases, factors, regression = self.biases, self.factors, self.regression
        named = {
            "mean": factors.s.new_tensor(biases.mean),
            "shrink": factors.s.new_tensor(biases.shrink),
            "row_bias": biases.row,
            "column_bias": biases.column,
            "u": factors.u,
            "s": factors.s,
            "v": factors.v,
            "ridge": regression.ridge,
            "spread": regression.spread,
            "seen": self.column_shares,
            "misses": self.held_out_errors,
        }
        if regression.loadings is not factors.v:  # only after `partial_fit`
            named |= {"loadings": regression.loadings, "scales": regression.scales}
        return named

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor]) -> CompletedMatrix:
        """The matrix with the tensors that `tensors` returned."""
        biases = Biases(float(named["mean"]), named["row_bias"], named["column_bias"], float(named["shrink"]))
        factors = LowRank(named["u"], named["s"], named["v"])
        loadings, scales = named.get("loadings", factors.v), named.get("scales", factors.s)
        regression = RowRegression(loadings, scales, named["ridge"], named["spread"])
        return cls(biases, factors, named["seen"], regression, named["misses"])
