"""Alternating least squares: rows with the columns' factor fixed, then columns with the rows' one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from corefold.completion.factors import LowRank
from corefold.completion.solvers.protocol import CompletionProblem, Step

MAX_REFIT_STEPS = 20
MIN_REFIT_GAIN = 1e-3  # share of the objective that a step must save for another one to follow


@dataclass(frozen=True)
class ALS:
    """Minimises `1/2 ||P(X) - b||^2 + penalty/2 (|a|^2 + |b|^2)` for X = a b^T of a fixed rank.

    Attributes:
        penalty: on the entries of both halves, which amounts to one on the nuclear norm of X.
        patience: steps without a better held-out error that end the path.
    """

    penalty: float = 0.0
    patience: int = 6

    def path(self, problem: CompletionProblem, start: LowRank) -> Iterator[Step]:
        factors = start
        while True:
            factors = self.sweep(problem, factors)
            yield self._step(problem, factors)

    def settle(
        self, problem: CompletionProblem, start: LowRank, best: Step | None
    ) -> Iterator[Iterator[Step]]:
        yield from ()

    def refit(self, problem: CompletionProblem, step: Step) -> Iterator[Step]:
        for _ in range(MAX_REFIT_STEPS):
            before, step = step.objective, self._step(problem, self.sweep(problem, step.factors))
            yield step
            if abs(step.objective - before) <= MIN_REFIT_GAIN * before:
                break

    def sweep(self, problem: CompletionProblem, factors: LowRank) -> LowRank:
        """Rows, then columns, each in orthonormal coordinates of the other side."""
        partition, observed = problem.partition, problem.observed
        eps = torch.finfo(factors.s.dtype).eps

        def ridge(factors: LowRank) -> Tensor:
            return self.penalty / factors.s[None].clamp(min=eps)

        # The ridge of a direction that the penalty has removed would be infinite.
        factors = factors.above(eps)
        coordinates = observed.fit_rows(factors.v, ridge(factors))
        factors = LowRank.product(coordinates, factors.v, partition)
        coordinates = observed.fit_columns(factors.u, ridge(factors), partition)
        return LowRank.product(factors.u, coordinates, partition)

    def _step(self, problem: CompletionProblem, factors: LowRank) -> Step:
        ridge = torch.full_like(factors.s, self.penalty)
        return problem.step(factors, self.penalty, self.penalty * float(factors.s.sum()), ridge)
