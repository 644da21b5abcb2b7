"""What features of rows and of columns explain of a matrix: main effects, and slopes of each column and each row.

    value_ij = mean + (f_i w + a_i) + (g_j z + b_j) + f_i c_j + r_i g_j

Row i has the features f_i, column j has g_j. The biases a, b and the slopes c, r are draws from normal distributions
around zero, and so are w and z, whose variances are the most likely ones. So a row without an entry is predicted from
its features, and one with many entries mostly from these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.biases import Biases, Effects, Shrinkage, likeliest
from corefold.completion.observed import Observed

SWEEPS, LAST_SWEEPS = 12, 4  # the last ones with the same variances
PRIOR_RIDGE = 5.0  # of the first sweep


@dataclass(frozen=True)
class Features:
    """Encoded features of the rows and of the columns of a matrix; a side without any has no column here."""

    rows: Float[Tensor, "height row_features"]
    columns: Float[Tensor, "width column_features"]


@dataclass(frozen=True)
class _Side:
    """The coefficients of one side: of all columns, or of all rows.

    Attributes:
        features: of each, its own.
        prior: coefficients of these, common to all.
        own: what each differs from that.
        slopes: its coefficients of the other side's features.
        ridges: of `prior`, `own` and `slopes`: the noise's variance over theirs.
        freedom: the number of coefficients that the values settle.
    """

    features: Float[Tensor, "side features"]
    prior: Float[Tensor, " features"]
    own: Float[Tensor, " side"]
    slopes: Float[Tensor, "side others"]
    ridges: tuple[float, float, float]
    freedom: float = 0.0

    @classmethod
    def zero(cls, features: Tensor, others: Tensor) -> _Side:
        """Before the first sweep."""
        zeros = features.new_zeros
        side, count = features.shape
        none = zeros(count), zeros(side), zeros(side, others.shape[1])
        return cls(features, *none, (PRIOR_RIDGE, PRIOR_RIDGE, PRIOR_RIDGE))

    @property
    def main(self) -> Float[Tensor, " side"]:
        """The main effects."""
        return self.features @ self.prior + self.own

    def fitted(self, residual: Observed, others: Tensor, noise: float | None) -> _Side:
        """After a sweep.

        Args:
            residual: values less everything but this side's coefficients; its columns are this side.
            others: features of the other side.
            noise: the noise's variance; None leaves the ridges as they are.
        """
        design = torch.cat([others.new_ones(len(others), 1), others], 1)
        gram, right = residual.column_equations(design)
        count = gram[:, 0, 0]
        right = right - gram[:, 0] * (self.features @ self.prior)[:, None]
        of_prior, of_own, of_slopes = self.ridges
        ridge = others.new_full((design.shape[1],), of_slopes)
        ridge[0] = of_own
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + ridge.diag()))
        slopes = (inverse @ right[..., None])[:, 1:, 0]
        settled = 1 - inverse.diagonal(dim1=1, dim2=2) * ridge
        own_freedom, slope_freedom = float(settled[:, 0].sum()), float(settled[:, 1:].sum())
        # A bias's mean over its entries has the variance of the biases and a share of the noise's.
        sums = right[:, 0] - (gram[:, 0, 1:] * slopes).sum(1)
        weight = count / (count + of_own)
        means = sums / count.clamp(min=1) + self.features @ self.prior
        normal = self.features.mT @ (weight[:, None] * self.features)
        normal.diagonal().add_(of_prior)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(normal))
        prior = inverse @ (self.features.mT @ (weight * means))
        own = weight * (means - self.features @ prior)
        ridges = self.ridges
        if noise is not None:
            freedom = len(prior) - of_prior * float(inverse.trace())
            errors = float((weight * (means - self.features @ prior).square()).sum())
            variance = errors / max(float(weight.sum()) - freedom, 1.0)
            ridges = (
                likeliest(variance, freedom, float(prior.square().sum())),
                likeliest(noise, own_freedom, float(own.square().sum())),
                likeliest(noise, slope_freedom, float(slopes.square().sum())),
            )
        return replace(
            self, prior=prior, own=own, slopes=slopes, ridges=ridges, freedom=own_freedom + slope_freedom
        )


def fit(observed: Observed, features: Features, sweeps: int = SWEEPS) -> Biases:
    """Biases with what the features explain, by alternating regressions of rows and of columns.

    Source: for the variances MacKay, Neural Computation 4 (1992); for features of cold rows Gantner, Drumond,
    Freudenthaler, Rendle, Schmidt-Thieme, ICDM 2010.
    """
    peak = float(observed.values.abs().amax()) or 1.0
    values = observed.values / peak
    mean = float(values.mean())
    by_columns, by_rows = observed, observed.transposed()
    row_features, column_features = (each.to(values) for each in (features.rows, features.columns))
    rows, columns = _Side.zero(row_features, column_features), _Side.zero(column_features, row_features)
    row_of, column_of = observed.row_of(), observed.columns
    noise: float | None = None
    for sweep in range(sweeps):
        last = sweep >= sweeps - max(LAST_SWEEPS, sweeps // 2)
        of_rows = rows.main[row_of] + observed.products(rows.slopes, column_features)
        residual = by_columns.with_values(values - mean - of_rows)
        columns = columns.fitted(residual, row_features, None if last else noise)
        of_columns = columns.main[column_of] + observed.products(row_features, columns.slopes)
        residual = by_rows.with_values((values - mean - of_columns).index_select(0, observed.order))
        rows = rows.fitted(residual, column_features, None if last else noise)
        of_rows = rows.main[row_of] + observed.products(rows.slopes, column_features)
        square = float((values - mean - of_rows - of_columns).square().sum())
        noise = square / max(len(values) - rows.freedom - columns.freedom, 1.0)
    effects = Effects(
        row_features,
        column_features,
        rows.prior * peak,
        columns.prior * peak,
        rows.slopes * peak,
        columns.slopes * peak,
        rows.ridges[2],
        columns.ridges[2],
    )
    shrinkage = Shrinkage(rows.ridges[1], columns.ridges[1])
    return Biases(mean * peak, rows.main * peak, columns.main * peak, shrinkage, effects)
