"""A completed matrix: biases and a low-rank part, its entries, new rows, and how far off it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corefold.completion.biases import Biases
from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed
from corefold.completion.distributed import Rows


@dataclass(frozen=True)
class Model:
    """`mean + row bias + column bias + u diag(s) v^T`, in the units of the data.

    Attributes:
        biases: all zero without.
        factors: the low-rank part.
        ridge: on the coordinates `u diag(s)` of a row, what the fit's penalty comes to there.
        spread: variances of `v`, where it is the mean of a distribution: an entry adds its column's to the ridge.
        seen: the share of the fitted rows in which each column is observed.
        misses: absolute errors at entries held out, ascending, that no choice of the fit saw but that of where to stop.
    """

    biases: Biases
    factors: LowRank
    ridge: Float[Tensor, " rank"]
    spread: Float[Tensor, "width rank"]
    seen: Float[Tensor, " width"]
    misses: Float[Tensor, " held"]

    def of_all(self, rows: Rows) -> Model:
        """With the errors held out in all processes."""
        return replace(self, misses=rows.all_of(self.misses).sort().values) if rows.count > 1 else self

    def entries(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Single entries."""
        low = torch.linalg.vecdot(self.factors.u[rows] * self.factors.s, self.factors.v[columns])
        return self.biases.mean + self.biases.row[rows] + self.biases.column[columns] + low

    def dense(self) -> Float[Tensor, "height width"]:
        """All entries."""
        low = (self.factors.u * self.factors.s) @ self.factors.v.mT
        return low.add_(self.biases.row[:, None] + self.biases.mean).add_(self.biases.column)

    def fold_in(self, observed: Observed) -> Model:
        """The same columns for other rows: each row's bias, then one small ridge regression on `v`."""
        biases = replace(self.biases, row=self.biases.rows_of(observed))
        left = observed.with_values(observed.values - biases.at(observed))
        coordinates = left.fit_rows(self.factors.v, self.ridge + observed.counts(self.spread))
        u = torch.where(self.factors.s > 0, coordinates / self.factors.s, 0)
        return replace(self, biases=biases, factors=replace(self.factors, u=u))

    def start_for(self, observed: Observed, rows: Rows) -> Model:
        """Where a fit to other rows, or more, may start: at their coordinates among these columns."""
        here = self.fold_in(observed)
        return replace(here, factors=LowRank.product(here.factors.u * here.factors.s, here.factors.v, rows))

    def margin(self, coverage: float) -> float:
        """Half the width of an interval that covers a new entry with this probability (split-conformal).

        Source: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman 2018, section 2.2. Infinite if fewer entries were held out
        than that takes.
        """
        place = math.ceil((len(self.misses) + 1) * coverage)
        return float(self.misses[place - 1]) if place <= len(self.misses) else math.inf

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name, to save."""
        biases, factors = self.biases, self.factors
        return {
            "mean": factors.s.new_tensor(biases.mean),
            "shrink": factors.s.new_tensor(biases.shrink),
            "row_bias": biases.row,
            "column_bias": biases.column,
            "u": factors.u,
            "s": factors.s,
            "v": factors.v,
            "ridge": self.ridge,
            "spread": self.spread,
            "seen": self.seen,
            "misses": self.misses,
        }

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor]) -> Model:
        """What `tensors` gave."""
        biases = Biases(float(named["mean"]), named["row_bias"], named["column_bias"], float(named["shrink"]))
        factors = LowRank(named["u"], named["s"], named["v"])
        return cls(biases, factors, named["ridge"], named["spread"], named["seen"], named["misses"])
