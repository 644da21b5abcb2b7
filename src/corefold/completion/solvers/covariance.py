r"""Rows as draws from one normal distribution, whose covariance falls from strong to weak shrinkage.

    x_i ~ N(0, S),   S ~ inverse Wishart around (strength / height) I

Expectation maximisation takes the missing values of each row for their distribution given its observed ones. A narrow
matrix of many rows settles a covariance of full rank, whose columns may be known to very different degrees; a low rank
with one noise for all columns is then the wrong model.

With a floor below all eigenvalues of S = V diag(l) V^T + floor I, the conditional means of a row are V c, where c is
the ridge regression of its observed values on V with the ridge floor / l: a completed matrix like any other.

Source: Little, Rubin, Statistical Analysis with Missing Data, section 11.2; Schneider, Journal of Climate 14 (2001),
for the regularisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.factors import LowRank
from corefold.completion.solvers.protocol import CompletionProblem, Step

STRENGTHS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03)  # rows of the prior
FIRST_SWEEPS, SWEEPS, REFIT_SWEEPS = 8, 4, 4  # of expectation maximisation at a strength
MAX_WORK = 5e7  # height times width cubed, about the multiplications of a sweep
BLOCK_NUMBERS = 2**21
FLOOR_SHARE = 0.99  # of the least eigenvalue


@dataclass(frozen=True)
class CovarianceStep(Step):
    """A step that a covariance of columns determines.

    Attributes:
        covariance: S.
        loadings: V.
        loadings_ridge: floor / l.
        floor: the variance of a value around its row's V c.
    """

    covariance: Float[Tensor, "width width"]
    loadings: Float[Tensor, "width kept"]
    loadings_ridge: Float[Tensor, " kept"]
    floor: float

    def keep(self, rank: int) -> Step:
        """All of it: its directions are not ordered by what they are worth."""
        return self

    def scaled(self, ratio: float) -> Step:
        factors = replace(self.factors, s=self.factors.s * ratio)
        squared = ratio**2
        return replace(
            self, factors=factors, covariance=self.covariance * squared, floor=self.floor * squared
        )


def affordable(problem: CompletionProblem, max_rank: int | None) -> bool:
    """Whether the matrix is narrow enough, all of it in one process and its rank within the bound."""
    if max_rank is not None and max_rank < min(problem.height, problem.width):
        return False
    return problem.partition.process_count == 1 and problem.height * problem.width**3 <= MAX_WORK


def path(problem: CompletionProblem, near: float | None = None) -> Iterator[Step]:
    """A step for each strength, from strong to weak, or for those next to one."""
    like = problem.observed.values
    covariance = torch.eye(problem.width, dtype=like.dtype, device=like.device)
    sweeps = FIRST_SWEEPS
    place = None if near is None else STRENGTHS.index(near)
    for strength in STRENGTHS if place is None else STRENGTHS[max(place - 1, 0) : place + 2]:
        for _ in range(sweeps):
            covariance = _sweep(problem, covariance, strength)
        yield _step(problem, covariance, strength)
        sweeps = SWEEPS


def refit(problem: CompletionProblem, step: CovarianceStep) -> Iterator[Step]:
    """The same strength on other entries."""
    covariance = step.covariance
    for _ in range(REFIT_SWEEPS):
        covariance = _sweep(problem, covariance, step.penalty)
    yield _step(problem, covariance, step.penalty)


def _sweep(problem: CompletionProblem, covariance: Tensor, strength: float) -> Tensor:
    """The most likely covariance, given what the last one says of the missing values."""
    values, seen = _dense(problem)
    height, width = values.shape
    precision, moments = torch.zeros_like(covariance), torch.zeros_like(covariance)
    step = max(1, BLOCK_NUMBERS // width**2)
    for rows in torch.arange(height, device=values.device).split(step):
        present = seen[rows]
        among = covariance * (present[:, :, None] & present[:, None, :])
        among.diagonal(dim1=1, dim2=2).add_((~present).to(values))
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(among))
        inverse *= present[:, :, None] & present[:, None, :]
        filled = torch.einsum("ikl,il->ik", inverse, values[rows]) @ covariance
        moments += filled.mT @ filled
        precision += inverse.sum(0)
    moments += height * covariance - covariance @ precision @ covariance
    moments.diagonal().add_(strength)
    return (moments + moments.mT) / (2 * (height + strength))


def _step(problem: CompletionProblem, covariance: Tensor, strength: float) -> Step:
    size, loadings = torch.linalg.eigh(covariance)
    floor = FLOOR_SHARE * float(size[0].clamp(min=torch.finfo(size.dtype).eps * size[-1]))
    ridge = floor / (size - floor).clamp(min=torch.finfo(size.dtype).tiny)
    observed = problem.observed
    coordinates = observed.fit_rows(loadings, ridge[None])
    factors = LowRank.product(coordinates, loadings, problem.partition).above()
    error = math.sqrt(problem.square(problem.residual(factors)) / problem.entries)
    spread, own_ridge = torch.zeros_like(factors.v), torch.zeros_like(factors.s)
    own = (covariance, loadings, ridge, floor)
    return CovarianceStep(factors, strength, math.nan, error, own_ridge, spread, *own)


def _dense(problem: CompletionProblem) -> tuple[Tensor, Tensor]:
    observed = problem.observed
    values = observed.values.new_zeros(observed.shape)
    seen = torch.zeros_like(values, dtype=torch.bool)
    row, column = observed.row_of().long(), observed.columns.long()
    values[row, column], seen[row, column] = observed.values, True
    return values, seen
