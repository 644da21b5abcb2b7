"""From observed values to the problem that a solver gets, and from its steps back to a completed matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion import feature_effects
from corefold.completion.biases import Biases
from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.feature_effects import Features
from corefold.completion.model import CompletedMatrix, RowRegression
from corefold.completion.observed import Observed
from corefold.completion.solvers.covariance import CovarianceStep
from corefold.completion.solvers.protocol import CompletionProblem, Step
from corefold.completion.units import (
    ColumnSpread,
    LinearUnits,
    NormalScores,
    RootUnits,
    Units,
    in_units,
)

LEAST_FOR_LOADINGS = 2  # entries of a column
TABLE, COLUMNS, RESIDUALS = "table", "columns", "residuals"
NORMAL_SCORES, ROOTS = "normal scores", "roots"


@dataclass(frozen=True)
class Form:
    """How values are prepared for a solver.

    Attributes:
        units: "table" for those of the data; "columns" for each column's mean and deviation; "residuals" likewise, with
            deviations in which the residuals of a walk are alike, so that columns count the more, the better they are
            known; "roots"; or "normal scores".
        biased: whether mean, row and column biases come first.
        featured: whether these have what features of rows and columns explain.
    """

    units: str
    biased: bool
    featured: bool = False


@dataclass(frozen=True)
class Standardization:
    """Scores less their biases, over their root mean square: from the data's units to the solver's and back."""

    form: Form
    units: Units
    biases: Biases
    cold: Biases
    scale: float
    deviation: float
    partition: RowPartition

    @classmethod
    def of(
        cls,
        form: Form,
        observed: Observed,
        spread: ColumnSpread,
        partition: RowPartition,
        features: Features | None = None,
    ) -> Standardization:
        """From the entries to fit; `spread` is that of all entries, or of the residuals."""
        if form.units == TABLE:
            units: Units = LinearUnits.of_data(observed.shape[1], observed.values.device)
        elif form.units in (COLUMNS, RESIDUALS):
            units = LinearUnits.of_columns(spread)
        elif form.units == NORMAL_SCORES:
            units = NormalScores.of(observed, spread)
        else:
            units = RootUnits.of(observed, partition)
        scores = in_units(observed, units)
        cold = Biases.fit(scores, partition) if features is None else feature_effects.fit(scores, features)
        if not form.biased:
            biases = Biases.none(scores)
        else:
            biases = cold if form.featured or features is None else Biases.fit(scores, partition)
        scale = rms(scores.values - biases.at(scores), partition) or 1.0
        deviation = rms(scores.values - cold.mean, partition)
        return cls(form, units, biases, cold, scale, deviation, partition)

    def problem(self, observed: Observed, seed: int) -> CompletionProblem:
        scores = in_units(observed, self.units)
        values = (scores.values - self.biases.at(scores)) / self.scale
        return CompletionProblem(scores.with_values(values), self.partition, seed)

    def start(self, start: LowRank, rank: int) -> LowRank:
        """A matrix of scores in the solver's scale."""
        return replace(start, s=start.s / self.scale).keep(rank)

    def errors(self, step: Step, held_out: Observed, scores: Observed) -> Float[Tensor, " held_out"]:
        """Errors of the values at entries; `scores` are those of the same entries."""
        predicted = self.biases.at(scores) + self.scale * step.factors.at(scores)
        if isinstance(self.units, LinearUnits):  # to more digits than the difference of values has
            return (scores.values - predicted) * self.units.scale.to(predicted)[scores.columns]
        return held_out.values - self.units.backward(predicted, scores.columns)

    def model(self, step: Step, observed: Observed, exact: bool = False) -> CompletedMatrix:
        """The matrix of a step that was fitted to these entries.

        A single entry settles no column's loadings, unless the values are exact: an entry unlike its row would be
        carried into all other rows.
        """
        # As a file holds them: products of other layouts differ in the last digit.
        u, v = step.factors.u.contiguous(), step.factors.v.contiguous()
        factors = LowRank(u, step.factors.s * self.scale, v)
        height = float(self.partition.sum(step.factors.s.new_tensor(float(observed.shape[0]))))
        if isinstance(step, CovarianceStep):
            scales = torch.ones_like(step.loadings_ridge)
            spread = torch.zeros_like(step.loadings)
            noise = step.floor * self.scale**2
            regression = RowRegression(
                step.loadings.contiguous(), scales, step.loadings_ridge, spread, noise, height
            )
        else:
            size = step.factors.s.clamp(min=torch.finfo(step.factors.s.dtype).eps)  # 0 where all values are
            # Only a posterior has variances, and its penalty is the noise.
            posterior = (step.penalty * self.scale**2, height) if bool(step.spread.any()) else ()
            ridge, spread = step.ridge / size, (step.spread / size).contiguous()
            regression = RowRegression(factors.v, factors.s, ridge, spread, *posterior)
        return CompletedMatrix(
            self.units,
            self.biases,
            self.cold,
            factors,
            _column_shares(observed, self.partition),
            observed.starts.diff() > 0,
            self.partition.sum(observed.column_starts.diff()) >= (1 if exact else LEAST_FOR_LOADINGS),
            regression,
        )


def rms(values: Tensor, partition: RowPartition) -> float:
    """The root of the mean square over all processes, of numbers of any size; 0 of none."""
    peak = partition.max((values.abs().amax() if len(values) else values.new_zeros(())).double())
    squares = (values.double() / peak).square().sum() if float(peak) > 0 else peak
    total = partition.sum(torch.stack([squares, squares.new_tensor(float(len(values)))]))
    return float(peak * (total[0] / total[1].clamp(min=1)).sqrt())


def _column_shares(observed: Observed, partition: RowPartition) -> Float[Tensor, " width"]:
    """The share of all rows in which each column is observed."""
    counts = partition.sum(observed.column_starts.diff().to(observed.values))
    return counts / partition.sum(counts.new_tensor(float(observed.shape[0])))
