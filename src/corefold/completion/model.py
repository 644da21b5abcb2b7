"""A completed matrix: biases and a low-rank part, the regression that adds rows to it, and how far off it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from corefold.completion.biases import Biases, Effects, Shrinkage
from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed
from corefold.completion.units import LinearUnits, Units, in_units, units_from


@dataclass(frozen=True)
class PredictedRows:
    """Rows of predictions: scores `mean + row bias + column bias + coordinates loadings^T`, in units of the data.

    Where a row or a column has no observed entry, the biases `cold` alone predict.
    """

    units: Units
    biases: Biases
    cold: Biases
    coordinates: Float[Tensor, "height rank"]
    loadings: Float[Tensor, "width rank"]
    seen_rows: Bool[Tensor, " height"]
    seen_columns: Bool[Tensor, " width"]

    def scores(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Scores of single entries."""
        low = torch.linalg.vecdot(self.coordinates[rows], self.loadings[columns])
        known = self.biases.entries(rows, columns) + low
        cold = self.cold.entries(rows, columns)
        return known.where(self.seen_rows[rows] & self.seen_columns[columns], cold)

    def entries(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Single entries."""
        return self.units.backward(self.scores(rows, columns), columns)

    def dense(self) -> Float[Tensor, "height width"]:
        """All entries."""
        low = self.biases.add_to(self.coordinates @ self.loadings.mT)
        unseen = ~(self.seen_rows[:, None] & self.seen_columns)
        if bool(unseen.any()):
            rows, columns = unseen.nonzero(as_tuple=True)
            low[rows, columns] = self.cold.entries(rows, columns)
        return self.units.backward(low, slice(None))


@dataclass(frozen=True)
class RowRegression:
    """The ridge regression that gives a row its coordinates: `min_c |values - loadings c|^2 + sum_k ridge_k c_k^2`.

    Attributes:
        loadings: a basis of the rows. After a fit these are the right singular vectors; `partial_fit` moves them.
        scales: root of the sum of squares of each coordinate over the rows fitted, their singular values.
        ridge: the fit's penalty on the coordinates.
        spread: variances of the loadings, where they are the mean of a distribution: each observed entry of a row adds
            its column's variances to the ridge.
        noise: variance of a score around `loadings c`; NaN where the fit has no distribution of the coordinates.
        height: number of rows that the loadings come from, NaN likewise.
    """

    loadings: Float[Tensor, "width rank"]
    scales: Float[Tensor, " rank"]
    ridge: Float[Tensor, " rank"]
    spread: Float[Tensor, "width rank"]
    noise: float = math.nan
    height: float = math.nan

    def coordinates(self, residual: Observed) -> Float[Tensor, "height rank"]:
        """The coordinates of rows, from their observed values less the biases."""
        if not len(self.scales):
            return residual.values.new_zeros(residual.shape[0], 0)
        coefficients = residual.fit_rows(self.loadings, self.ridge + residual.counts(self.spread))
        return torch.where(self.scales > 0, coefficients, 0)

    def precision(self, rows: Observed) -> Float[Tensor, "height rank rank"]:
        """Of the coordinates of rows, times the noise: how closely the places of a row's entries settle them."""
        if not len(self.ridge):
            return rows.values.new_zeros(rows.shape[0], 0, 0)
        gram, _ = rows.row_equations(self.loadings)
        return gram + torch.diag_embed(self.ridge + rows.counts(self.spread))


@dataclass(frozen=True)
class CompletedMatrix:
    """Scores `mean + row bias + column bias + u diag(s) v^T`, and the units in which they are values.

    Attributes:
        units: how scores become values.
        biases: all zero where the fit had none.
        cold: biases that predict rows and columns without an observed entry.
        factors: the low-rank part of the scores.
        column_shares: the share of the fitted rows in which each column is observed.
        seen_rows: the rows that have an observed entry.
        seen_columns: the columns that have enough of them for the low-rank part; `cold` predicts the others.
        regression: how other rows get their coordinates.
    """

    units: Units
    biases: Biases
    cold: Biases
    factors: LowRank
    column_shares: Float[Tensor, " width"]
    seen_rows: Bool[Tensor, " height"]
    seen_columns: Bool[Tensor, " width"]
    regression: RowRegression

    def low_rank_part(self) -> LowRank:
        """In units of the data where these are linear, else the scores'."""
        if not isinstance(self.units, LinearUnits) or bool((self.units.scale == 1).all()):
            return self.factors
        left = self.factors.u * self.factors.s
        return LowRank.product(left, self._in_units_of_data(self.factors.v), RowPartition())

    def _in_units_of_data(self, loadings: Float[Tensor, "width rank"]) -> Float[Tensor, "width rank"]:
        scale = self.units.scale if isinstance(self.units, LinearUnits) else loadings.new_ones(len(loadings))
        return loadings * scale.to(loadings)[:, None]

    def predicted(self, rows: Int[Tensor, " n"] | slice = slice(None)) -> PredictedRows:
        """Predictions of these of its rows."""
        biases, cold = (each.of_rows(rows) for each in (self.biases, self.cold))
        coordinates, seen = self.factors.u[rows] * self.factors.s, self.seen_rows[rows]
        return PredictedRows(self.units, biases, cold, coordinates, self.factors.v, seen, self.seen_columns)

    def entries(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Single entries."""
        return self.predicted(rows).entries(torch.arange(len(rows), device=rows.device), columns)

    def without_row(self, columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Predictions of entries of these columns in a row of which nothing is known."""
        return self.units.backward(self.cold.mean + self.cold.column[columns], columns)

    def fold_in(
        self, observed: Observed, features: Float[Tensor, "height row_features"] | None = None
    ) -> PredictedRows:
        """Predictions of other rows with the same columns: each row's biases, then its ridge regression.

        Args:
            observed: entries.
            features: of the rows, encoded; None for average ones.
        """
        scores = in_units(observed, self.units)
        biases, cold = (each.for_rows(scores, features) for each in (self.biases, self.cold))
        residual = scores.with_values(scores.values - biases.at(scores))
        coordinates, seen = self.regression.coordinates(residual), observed.starts.diff() > 0
        return PredictedRows(
            self.units, biases, cold, coordinates, self.regression.loadings, seen, self.seen_columns
        )

    def start_for(self, observed: Observed, partition: RowPartition) -> LowRank | None:
        """The start of a fit to other rows: their low-rank part in units of the data; None of rank 0 or other units."""
        if not isinstance(self.units, LinearUnits) or not self.factors.rank:
            return None
        rows = self.fold_in(observed)
        return LowRank.product(rows.coordinates, self._in_units_of_data(rows.loadings), partition)

    def tensors(self) -> dict[str, Tensor]:
        """All of its tensors by the names that a file gives them."""
        biases, cold, factors, regression = self.biases, self.cold, self.factors, self.regression
        named = {
            **_plain_biases("", biases, factors.s),
            "u": factors.u,
            "s": factors.s,
            "v": factors.v,
            "ridge": regression.ridge,
            "spread": regression.spread,
            "seen": self.column_shares,
            **self.units.tensors(),
        }
        if not bool(self.seen_rows.all()):
            named["seen_rows"] = self.seen_rows
        if not bool(self.seen_columns.all()):
            named["seen_columns"] = self.seen_columns
        if cold.column is not biases.column:
            named |= _plain_biases("cold_", cold, factors.s)
        if not math.isnan(regression.noise):
            named["noise"] = factors.s.new_tensor([regression.noise, regression.height])
        if regression.loadings is not factors.v:  # only after `partial_fit`
            named |= {"loadings": regression.loadings, "scales": regression.scales}
        return named

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor]) -> CompletedMatrix:
        """The matrix with the tensors that `tensors` returned; older files have no units and one shrinkage."""
        biases = _biases(named, "")
        cold = _biases(named, "cold_") if "cold_mean" in named else biases
        factors = LowRank(named["u"], named["s"], named["v"])
        width = len(factors.v)
        loadings, scales = named.get("loadings", factors.v), named.get("scales", factors.s)
        noise = named["noise"].tolist() if "noise" in named else ()
        regression = RowRegression(loadings, scales, named["ridge"], named["spread"], *noise)
        seen_rows = named.get("seen_rows", torch.ones(len(factors.u), dtype=torch.bool))
        seen_columns = named.get("seen_columns", torch.ones(width, dtype=torch.bool))
        units, shares = units_from(named, width), named["seen"]
        return cls(units, biases, cold, factors, shares, seen_rows, seen_columns, regression)


def _plain_biases(prefix: str, biases: Biases, like: Tensor) -> dict[str, Tensor]:
    """Biases as tensors, with one shrinkage where rows and columns have the same, as in files of versions before."""
    shrinkage = biases.shrinkage
    same = shrinkage.row == shrinkage.column
    named = {
        "mean": like.new_tensor(biases.mean),
        "shrink": like.new_tensor(shrinkage.row if same else [shrinkage.row, shrinkage.column]),
        "row_bias": biases.row,
        "column_bias": biases.column,
    }
    if biases.effects is not None:
        effects = vars(biases.effects)
        named |= {
            f"effects_{name}": torch.as_tensor(value, dtype=like.dtype) for name, value in effects.items()
        }
    return {f"{prefix}{name}": tensor for name, tensor in named.items()}


def _biases(named: dict[str, Tensor], prefix: str) -> Biases:
    shrink = named[f"{prefix}shrink"].expand(2).tolist()
    row, column = named[f"{prefix}row_bias"], named[f"{prefix}column_bias"]
    effects = None
    if f"{prefix}effects_row_prior" in named:
        parts = {
            field.name: named[f"{prefix}effects_{field.name}"]
            for field in fields(Effects)
            if not field.name.endswith("ridge")
        }
        ridge, column_ridge = (float(named[f"{prefix}effects_{name}"]) for name in ("ridge", "column_ridge"))
        effects = Effects(**parts, ridge=ridge, column_ridge=column_ridge)
    return Biases(float(named[f"{prefix}mean"]), row, column, Shrinkage(*shrink), effects)
