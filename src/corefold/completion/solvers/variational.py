r"""Posterior means in place of the one best matrix: variational Bayes for noisy values.

All coefficients of the halves A, B of the matrix are independent Gaussians, before and after the values are known:

    x_ij = (A B^T)_ij + noise;  before  A_ik ~ N(0, p_k),      B_jk ~ N(0, q_k)
                                after   A_ik ~ N(a_ik, t_ik),  B_jk ~ N(b_jk, r_jk)

The two sides alternate towards the posterior nearest to the true one. The posterior of the rows is a ridge regression
on the means of the columns, with a ridge that grows with the columns' variances:

    a_i = argmin sum_j (x_ij - a_i . b_j)^2 + sum_k (sum_j r_jk + noise / p_k) a_ik^2
    t_ik = noise / (sum_j (b_jk^2 + r_jk) + noise / p_k)

The columns' posterior has the same form. The noise and the variances p, q maximise the likelihood of the values. So a
direction that the values do not need vanishes, and rows of few entries are shrunken more.

Source: Lim, Teh, KDD Cup 2007; Ilin, Raiko, JMLR 11 (2010), section 4.2, with the variances of single coefficients
(VBPCAd), and rotated after each sweep to the axes of the singular vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.factors import LowRank
from corefold.completion.solvers.protocol import CompletionProblem, Step


def walk(problem: CompletionProblem, step: Step) -> Iterator[Step]:
    """Sweeps without an end."""
    while True:
        step = sweep(problem, step)
        yield step


def begin(problem: CompletionProblem, factors: LowRank) -> Step:
    """A posterior around a matrix: its residual counts as noise, and the columns vary as if its rows were known."""
    observed, partition = problem.observed, problem.partition
    a, b = factors.halves()
    noise = _noise(problem, problem.square(problem.residual(factors)))
    ridge = noise / _prior_variances(partition.sum(a.square().sum(0)), problem.height)
    precision = partition.sum(observed.transposed_counts(a.square()))
    spread = noise / (precision + noise / _prior_variances(b.square().sum(0), problem.width))
    return Step(factors, noise, math.inf, math.sqrt(noise), ridge, spread)


def sweep(problem: CompletionProblem, step: Step) -> Step:
    """Update rows, columns, noise and priors in turn, each to its best value while the others are fixed.

    The step's penalty is the noise, its ridge noise / p. Its objective is the free energy: up to a constant, an upper
    bound of minus the logarithm of the values' likelihood. Except for the rotation a sweep can only lower it.
    """
    observed, partition, noise = problem.observed, problem.partition, step.penalty
    _, b = step.factors.halves()
    ridge = observed.counts(step.spread) + step.ridge
    a, a_variance = observed.fit_rows(b, ridge), noise / (observed.counts(b.square()) + ridge)

    prior = _prior_variances((b.square() + step.spread).sum(0), problem.width)
    squares, variances = (
        partition.sum(observed.transposed_counts(part)) for part in (a.square(), a_variance)
    )
    b = observed.fit_columns(a, variances + noise / prior, partition)
    b_variance = noise / (squares + variances + noise / prior)

    residual = float(partition.sum((observed.values - observed.products(a, b)).square().sum()))
    # The variance of A B^T summed over all entries, column by column.
    uncertainty = float(((squares + variances) * b_variance + variances * b.square()).sum())
    noise = _noise(problem, residual + uncertainty)
    energy = problem.entries * math.log(noise)
    energy += _twice_divergence(partition.sum(_moments(a, a_variance)), problem.height)
    energy += _twice_divergence(_moments(b, b_variance), problem.width)
    factors, spread, row_moments = _rotated(problem, a, a_variance, b, b_variance)
    ridge = noise / _prior_variances(row_moments, problem.height)
    return Step(factors, noise, energy / 2, math.sqrt(residual / problem.entries), ridge, spread)


def _rotated(
    problem: CompletionProblem,
    a: Float[Tensor, "height rank"],
    a_variance: Float[Tensor, "height rank"],
    b: Float[Tensor, "width rank"],
    b_variance: Float[Tensor, "width rank"],
) -> tuple[LowRank, Float[Tensor, "width kept"], Float[Tensor, " kept"]]:
    """In the axes of the singular vectors: the matrix, the columns' variances, and the rows' summed second moments."""
    partition = problem.partition
    factors = LowRank.product(a, b, partition).above()
    # The new halves are a back and b turn with back^T turn = 1, since a b^T v = u s and b a^T u = v s.
    root = factors.s.sqrt().clamp(min=torch.finfo(a.dtype).tiny)
    turn, back = partition.sum(a.mT @ factors.u) / root, b.mT @ factors.v / root
    row_moments = factors.s + partition.sum(a_variance.sum(0)) @ back.square()
    return factors, b_variance @ turn.square(), row_moments


def _noise(problem: CompletionProblem, square: float) -> float:
    """The most likely variance of the noise, at least that of the rounding of values of size 1."""
    return max(square / problem.entries, torch.finfo(problem.observed.values.dtype).eps ** 2)


def _prior_variances(square: Float[Tensor, " rank"], count: int) -> Float[Tensor, " rank"]:
    """The most likely prior variances of `count` coefficients with these summed second moments."""
    return (square / count).clamp(min=torch.finfo(square.dtype).tiny)


def _moments(mean: Float[Tensor, "n rank"], variance: Float[Tensor, "n rank"]) -> Float[Tensor, "2 rank"]:
    """Sums of second moments, and of logarithms of variances."""
    return torch.stack([(mean.square() + variance).sum(0), variance.log().sum(0)])


def _twice_divergence(moments: Float[Tensor, "2 rank"], count: int) -> float:
    """Twice the divergence of a posterior with these `_moments` from its most likely prior, up to a constant."""
    return float((count * _prior_variances(moments[0], count).log() - moments[1]).sum())
