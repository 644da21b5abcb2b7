"""Alternating least squares: rows with the columns' factor fixed, then columns with the rows' one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from corefold.completion.factors import LowRank
from corefold.completion.solvers.protocol import Problem, Step


@dataclass(frozen=True)
class ALS:
    """Minimises `1/2 ||P(X) - b||^2 + penalty/2 (|a|^2 + |b|^2)` for X = a b^T of a rank that it is told.

    Attributes:
        penalty: on the entries of both halves; at its least that of the nuclear norm of X.
        patience: steps without a better held-out error that end the path.
    """

    penalty: float = 0.0
    patience: int = 6

    def path(self, problem: Problem, start: LowRank) -> Iterator[Step]:
        factors = start
        while True:
            factors = self.sweep(problem, factors)
            yield self._step(problem, factors)

    def settle(self, problem: Problem, start: LowRank, best: Step) -> Iterator[Iterator[Step]]:
        yield from ()

    def refit(self, problem: Problem, step: Step) -> Iterator[Step]:
        for _ in range(20):
            before, step = step.objective, self._step(problem, self.sweep(problem, step.factors))
            yield step
            if abs(step.objective - before) <= 1e-3 * before:
                break

    def sweep(self, problem: Problem, factors: LowRank) -> LowRank:
        """Rows, then columns, each in orthonormal coordinates of the other side."""
        rows, observed = problem.rows, problem.observed

        def ridge(factors: LowRank) -> Tensor:
            return self.penalty / factors.s[None].clamp(min=torch.finfo(factors.s.dtype).eps)

        # Where the penalty has put a direction out there is nothing to divide by.
        smallest = torch.finfo(factors.s.dtype).eps * factors.s[0]
        factors = factors.keep(max(1, int((factors.s > smallest).sum())))
        coordinates = observed.fit_rows(factors.v, ridge(factors))
        factors = LowRank.product(coordinates, factors.v, rows)
        coordinates = observed.fit_columns(factors.u, ridge(factors), rows)
        return LowRank.product(factors.u, coordinates, rows)

    def _step(self, problem: Problem, factors: LowRank) -> Step:
        square = problem.square(problem.residual(factors))
        objective = square / 2 + self.penalty * float(factors.s.sum())
        ridge = factors.s.new_full((factors.rank,), self.penalty)
        error, spread = math.sqrt(square / problem.entries), torch.zeros_like(factors.v)
        return Step(factors, self.penalty, objective, error, ridge, spread)
