r"""Posterior means in place of the one best matrix: variational Bayes for values with noise.

All coefficients of the halves A, B of the matrix are Gaussian and independent, before as after anything is seen:

    x_ij = (A B^T)_ij + noise;  before  A_ik ~ N(0, p_k),      B_jk ~ N(0, q_k)
                                after   A_ik ~ N(a_ik, t_ik),  B_jk ~ N(b_jk, r_jk)

The posterior nearest to the true one is found by turns. That of the rows is a ridge regression on the means of the
columns, whose ridge says how well these are known, row by row:

    a_i = argmin sum_j (x_ij - a_i . b_j)^2 + sum_k (sum_j r_jk + noise / p_k) a_ik^2
    t_ik = noise / (sum_j (b_jk^2 + r_jk) + noise / p_k)

and the columns' likewise. The noise and the variances p, q are those that make the values the likeliest. So a direction
that the values do not call for goes out by itself, and rows of few entries are shrunken the more.

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
from corefold.completion.solvers.protocol import Problem, Step

SMALLEST = 1e-6  # share of the largest singular value below which a direction is out


def walk(problem: Problem, step: Step) -> Iterator[Step]:
    """Sweep after sweep."""
    while True:
        step = sweep(problem, step)
        yield step


def begin(problem: Problem, factors: LowRank) -> Step:
    """Beliefs around a matrix: what it leaves of the values is noise, and if it is true, columns are known so well."""
    observed, rows = problem.observed, problem.rows
    a, b = factors.halves()
    noise = _noise(problem, problem.square(problem.residual(factors)))
    ridge = noise / _likeliest(rows.sum(a.square().sum(0)), problem.height)
    known = rows.sum(observed.transposed_counts(a.square()))
    spread = noise / (known + noise / _likeliest(b.square().sum(0), problem.width))
    return Step(factors, noise, math.inf, math.sqrt(noise), ridge, spread)


def sweep(problem: Problem, step: Step) -> Step:
    """Rows, columns, noise and priors in turn, each at its best given the others.

    The step's penalty is the noise, its ridge noise / p. Its objective is the free energy: but for a constant, a
    bound from above of minus the logarithm of the values' likelihood. But for the rotation a sweep can only lower it.
    """
    observed, rows, noise = problem.observed, problem.rows, step.penalty
    _, b = step.factors.halves()
    ridge = observed.counts(step.spread) + step.ridge
    a, of_a = observed.fit_rows(b, ridge), noise / (observed.counts(b.square()) + ridge)

    prior = _likeliest((b.square() + step.spread).sum(0), problem.width)
    square, unsure = (rows.sum(observed.transposed_counts(part)) for part in (a.square(), of_a))
    b = observed.fit_columns(a, unsure + noise / prior, rows)
    of_b = noise / (square + unsure + noise / prior)

    fit = float(rows.sum((observed.values - observed.products(a, b)).square().sum()))
    doubt = float(((square + unsure) * of_b + unsure * b.square()).sum())  # of all entries, column by column
    noise = _noise(problem, fit + doubt)
    energy = problem.entries * math.log(noise) + _cost(rows.sum(_sums(a, of_a)), problem.height)
    energy += _cost(_sums(b, of_b), problem.width)
    factors, spread, square = _rotated(problem, a, of_a, b, of_b)
    ridge = noise / _likeliest(square, problem.height)
    return Step(factors, noise, energy / 2, math.sqrt(fit / problem.entries), ridge, spread)


def _rotated(
    problem: Problem,
    a: Float[Tensor, "height rank"],
    of_a: Float[Tensor, "height rank"],
    b: Float[Tensor, "width rank"],
    of_b: Float[Tensor, "width rank"],
) -> tuple[LowRank, Float[Tensor, "width kept"], Float[Tensor, " kept"]]:
    """In the axes of the singular vectors: the matrix, the columns' variances, and the rows' summed second moments."""
    factors, rows = LowRank.product(a, b, problem.rows), problem.rows
    factors = factors.keep(max(1, int((factors.s > SMALLEST * factors.s[0]).sum())))
    # right = b turn and left = a back, with back^T turn = 1: for a b^T v = left sqrt(s), and so for the other side.
    root = factors.s.sqrt().clamp(min=torch.finfo(a.dtype).tiny)
    turn, back = rows.sum(a.mT @ factors.u) / root, b.mT @ factors.v / root
    square = factors.s + rows.sum(of_a.sum(0)) @ back.square()
    return factors, of_b @ turn.square(), square


def _noise(problem: Problem, square: float) -> float:
    """The likeliest; where nothing is left, what rounding leaves of values of size 1."""
    return max(square / problem.entries, torch.finfo(problem.observed.values.dtype).eps ** 2)


def _likeliest(square: Float[Tensor, " rank"], count: int) -> Float[Tensor, " rank"]:
    """Variances of so many coefficients with these summed second moments."""
    return (square / count).clamp(min=torch.finfo(square.dtype).tiny)


def _sums(mean: Float[Tensor, "n rank"], variance: Float[Tensor, "n rank"]) -> Float[Tensor, "2 rank"]:
    return torch.stack([(mean.square() + variance).sum(0), variance.log().sum(0)])


def _cost(sums: Float[Tensor, "2 rank"], count: int) -> float:
    """Twice the divergence of a posterior from its prior, whose variances are the likeliest."""
    return float((count * _likeliest(sums[0], count).log() - sums[1]).sum())
