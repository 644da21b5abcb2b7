r"""Draws of missing entries from their predictive distribution, as multiple imputation needs them.

In the units of a blend's main member, the error of a prediction is taken to be

    e_ij = w_j . (c_i(W) + a_i) - v_j . c_i(V) + noise,      w_j ~ N(v_j, spread_j),      a_i ~ N(0, noise P_i^-1)

with the loadings v_j of a column and their posterior variances spread_j, the coordinates c_i that the observed entries
of a row have by ridge regression on loadings, and the precision P_i that their places give these. A draw has one W, and
one a_i for each row, so the entries of a row, and those of a column, err together. For a covariance
S = V diag(l) V^T + noise I of the columns, which has no spread, this is a row's conditional normal distribution:

    S_mm - S_mo S_oo^-1 S_om = noise (I + V_m P^-1 V_m^T),      P = V_o^T V_o + noise diag(l)^-1

Held-out entries say more reliably than a model how large errors are. So an error of the model becomes the error of the
same rank among those at held-out entries: their quantiles also set the widths of intervals.

Source: Rubin, Multiple Imputation for Nonresponse in Surveys (1987), chapters 3 and 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corefold.completion.blend import Blend
from corefold.completion.calibration import Calibration, deviations
from corefold.completion.model import CompletedMatrix, PredictedRows, RowRegression
from corefold.completion.observed import Observed
from corefold.completion.units import LinearUnits, in_units

LEVELS, LAST_LEVEL = 29, 3.5  # of normal errors, whose quantiles are looked up
LEAST_COVERAGE = 0.9  # of an interval that held-out errors must be enough for
SAMPLED_ENTRIES, MOST_ROWS = 2**14, 64  # that say how large a model's errors are
BLOCK_NUMBERS = 2**21


@dataclass(frozen=True)
class Rows:
    """Rows to complete.

    Attributes:
        observed: their observed entries.
        features: of the rows, encoded; None for average ones.
    """

    observed: Observed
    features: Float[Tensor, "height row_features"] | None = None

    def part(self, places: Int[Tensor, " n"]) -> Rows:
        """Some of them."""
        places = places.to(self.observed.values.device)
        return Rows(self.observed.of_rows(places), None if self.features is None else self.features[places])


@dataclass(frozen=True)
class ErrorModel:
    """How errors of missing entries belong together, and how large they are; on the CPU in float64.

    Attributes:
        regression: of the main member, with a row's bias as one more coordinate; without coordinates where the fit has
            no distribution of them.
        sizes: the deviation of the model's errors in each column.
        counts: the entries that each column's mean comes from; infinite where the fit has no posterior.
        levels: magnitudes of standard normal errors, ascending from 0.
        knots: the quantiles of the model's errors over `sizes` that correspond to these.
        magnitudes: those of errors at held-out entries, by column.
    """

    regression: RowRegression
    sizes: Float[Tensor, " width"]
    counts: Float[Tensor, " width"]
    levels: Float[Tensor, " levels"]
    knots: Float[Tensor, " levels"]
    magnitudes: Float[Tensor, "levels width"]

    @classmethod
    def of(cls, model: Blend, rows: Rows) -> ErrorModel:
        """From a fit's held-out errors, and rows that say how well others are known.

        Raises:
            ValueError: too few entries were held out.
        """
        _require_errors(model.calibration)
        regression = _with_row_bias(model.main)
        variances, columns, sizes = _left_out(regression, model.main, rows)
        levels = torch.linspace(0, LAST_LEVEL, LEVELS, dtype=torch.float64)
        shares = torch.erf(levels / math.sqrt(2))
        ratios = variances.sqrt() / sizes[columns]
        ratios = ratios.repeat(math.ceil(4 * SAMPLED_ENTRIES / len(ratios)))
        knots = torch.quantile(
            (ratios * normal(ratios.shape, torch.Generator().manual_seed(0))).abs(), shares
        )
        knots[0] = 0.0
        scored = _in_scores(model)
        magnitudes = torch.stack([plain(scored.margins(share)) for share in shares.tolist()])
        counts = (plain(model.main.column_shares) * regression.height).clamp(min=1).nan_to_num(math.inf)
        return cls(regression, sizes, counts, levels, knots, extended(magnitudes, levels))

    def shared(
        self, generator: torch.Generator
    ) -> tuple[Float[Tensor, "width rank"], Float[Tensor, " width"]]:
        """What a draw has in common: its loadings, and by how much each column's mean is off, over `sizes`."""
        regression = self.regression
        loadings = regression.loadings + regression.spread.sqrt() * normal(regression.spread.shape, generator)
        return loadings, normal(self.counts.shape, generator) / self.counts.sqrt()

    def calibrated(self, errors: Float[Tensor, " n"], columns: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What errors of the model, over `sizes`, become, in its units."""
        return looked_up(errors, self.knots, self.magnitudes, columns)


def _require_errors(calibration: Calibration) -> None:
    if len(calibration) and not len(calibration.scores):
        raise ValueError(
            "the file of this estimator, of an older version, does not say enough of errors; fit again"
        )
    if not len(calibration) or not bool(calibration.margins(LEAST_COVERAGE).isfinite().all()):
        raise ValueError(
            f"samples need more held-out entries than {len(calibration)}; fit with a larger validation_fraction"
        )


def _with_row_bias(main: CompletedMatrix) -> RowRegression:
    """The regression of rows whose bias is a coordinate; of none where there is no distribution of coordinates."""
    whole = main.regression
    loadings, ridge, spread = (plain(each) for each in (whole.loadings, whole.ridge, whole.spread))
    if math.isnan(whole.noise):
        return RowRegression(loadings[:, :0], ridge[:0], ridge[:0], spread[:, :0], 1.0)
    if math.isfinite(main.biases.shrinkage.row):
        loadings = torch.cat([loadings, torch.ones(len(loadings), 1)], 1)
        ridge = torch.cat([ridge, ridge.new_tensor([main.biases.shrinkage.row])])
        spread = torch.cat([spread, torch.zeros(len(loadings), 1)], 1)
    return replace(whole, loadings=loadings, scales=torch.ones_like(ridge), ridge=ridge, spread=spread)


def root_of(regression: RowRegression, rows: Observed) -> Float[Tensor, "height rank rank"]:
    """The Cholesky factor of the precision of the coordinates of rows, times the noise."""
    ones = torch.ones(len(rows), dtype=torch.float64)
    return torch.linalg.cholesky(regression.precision(rows.to("cpu").with_values(ones)))


def scores_of(rows: PredictedRows, observed: Observed) -> Observed:
    """The scores of rows less their biases, on the CPU in float64."""
    scores = in_units(observed, rows.units)
    return observed.to("cpu").with_values(plain(scores.values - rows.biases.at(scores)))


def coordinates_of(regression: RowRegression, rows: PredictedRows) -> Float[Tensor, "height rank"]:
    """The coordinates of rows, and 1 as that of the bias."""
    coordinates = plain(rows.coordinates)[:, : len(regression.ridge)]
    missing = len(regression.ridge) - coordinates.shape[1]
    return torch.cat([coordinates, torch.ones(len(coordinates), missing)], 1)


def _left_out(
    regression: RowRegression, main: CompletedMatrix, all_rows: Rows
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " width"]]:
    """Variances of errors at some observed entries, if they were not, their columns, and the deviation of each column.

    A column without an observed entry has the variances at its missing ones.
    """
    observed = all_rows.observed
    step = max(1, len(observed) // SAMPLED_ENTRIES)
    sampled = all_rows.part(torch.arange(0, observed.shape[0], step))
    part = sampled.observed
    rows, columns = part.row_of().long().cpu(), part.columns.long().cpu()
    width = len(regression.loadings)
    unseen = torch.ones(width, dtype=torch.bool).index_fill_(0, columns, False).nonzero()[:, 0]
    some = torch.arange(min(part.shape[0], MOST_ROWS))
    places = (
        torch.cat([rows, some.repeat(len(unseen))]),
        torch.cat([columns, unseen.repeat_interleave(len(some))]),
    )
    variances = _variances(regression, main, sampled, places, len(rows))
    counts = torch.bincount(places[1], minlength=width)
    sizes = (torch.bincount(places[1], variances, width) / counts).sqrt()
    return variances[: len(rows)], columns, sizes


def _variances(
    regression: RowRegression,
    main: CompletedMatrix,
    part: Rows,
    places: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
    observed_count: int,
) -> Float[Tensor, " n"]:
    """Variances of errors at places of which the first ones are observed: there, if they were not."""
    root = root_of(regression, part.observed)
    squares = coordinates_of(regression, main.fold_in(part.observed, part.features)).square()
    size = max(1, BLOCK_NUMBERS // max(1, len(regression.ridge)) ** 2)
    parts = []
    for row, column in zip(*(each.split(size) for each in places), strict=True):
        loadings = regression.loadings[column][..., None]
        solved = torch.linalg.solve_triangular(root[row], loadings, upper=False)
        own = torch.linalg.vecdot(squares[row], regression.spread[column])
        parts.append(torch.stack([solved.square().sum((1, 2)), own]))
    leverage, own = torch.cat(parts, 1)
    left_out = 1 / (1 - leverage[:observed_count]).clamp(min=torch.finfo(leverage.dtype).eps)
    return regression.noise * torch.cat([left_out, 1 + leverage[observed_count:]]) + own


def _in_scores(model: Blend) -> Calibration:
    """The calibration of errors in units of the main member."""
    calibration, units = model.calibration, model.main.units
    scores, columns = calibration.scores, calibration.columns
    if isinstance(units, LinearUnits):
        deviation = calibration.deviation / units.scale.to(calibration.deviation)
    else:
        deviation = deviations(scores, columns.long(), torch.ones_like(calibration.deviation))
    return replace(calibration, errors=scores, deviation=deviation)


def extended(
    magnitudes: Float[Tensor, "levels n"], levels: Float[Tensor, " levels"]
) -> Float[Tensor, "levels n"]:
    """With magnitudes as those of normal errors beyond the largest error."""
    magnitudes[0] = 0.0
    for place in range(2, len(levels)):
        beyond = magnitudes[place - 1] * (levels[place] / levels[place - 1])
        magnitudes[place] = magnitudes[place].where(magnitudes[place].isfinite(), beyond)
    return magnitudes


def looked_up(
    errors: Float[Tensor, " n"],
    knots: Float[Tensor, " levels"],
    magnitudes: Float[Tensor, "levels width"],
    columns: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Errors with the magnitudes of their columns, linear between knots."""
    size = errors.abs().clamp(max=float(knots[-1]))
    place = torch.searchsorted(knots, size).clamp(1, len(knots) - 1)
    share = (size - knots[place - 1]) / (knots[place] - knots[place - 1])
    return errors.sign() * torch.lerp(magnitudes[place - 1, columns], magnitudes[place, columns], share)


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Drawn on the CPU in float64, so that a seed means the same draws everywhere."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def plain(tensor: Tensor) -> Tensor:
    """On the CPU in float64."""
    return tensor.detach().cpu().double()
