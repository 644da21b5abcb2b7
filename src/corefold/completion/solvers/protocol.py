"""The interface of a solver, the problem that it gets and the steps that it returns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed


@dataclass(frozen=True)
class Step:
    """One step of a solver; `CompletionProblem.step` makes one.

    Attributes:
        factors: the matrix so far.
        penalty: weight of the regulariser in the objective; of posterior means the variance of the noise.
        objective: the quantity that the solver brings down, at this penalty.
        error: root mean square of the residual at the observed entries.
        ridge: the weight that the penalty puts on each column of the two halves, `LowRank.halves`; of posterior means
            on those of the rows' half.
        spread: variances of the columns' half, where that is the mean of a distribution; else 0.
    """

    factors: LowRank
    penalty: float
    objective: float
    error: float
    ridge: Float[Tensor, " rank"]
    spread: Float[Tensor, "width rank"]

    def keep(self, rank: int) -> Step:
        """Its leading directions."""
        ridge, spread = self.ridge[:rank], self.spread[:, :rank]
        return replace(self, factors=self.factors.keep(rank), ridge=ridge, spread=spread)

    def scaled(self, ratio: float) -> Step:
        """The same for values `ratio` times as large."""
        factors = replace(self.factors, s=self.factors.s * ratio)
        return replace(
            self,
            factors=factors,
            penalty=self.penalty * ratio**2,
            ridge=self.ridge * ratio,
            spread=self.spread * ratio,
        )


@runtime_checkable
class Solver(Protocol):
    """Finds a low-rank matrix that has given values at given entries.

    Any object with these three methods and `patience` is a solver for `DeepMatrixCompletion(solver=...)`. The fit
    scales the values to a root mean square of 1, holds entries out, reads each walk until `patience` steps bring no
    better held-out error, keeps the best step, and refits it to all entries. Scaled gradient descent (Tong, Ma, Chi,
    JMLR 2021), for example, takes the rank from `max_rank` and is

    >>> from itertools import islice
    >>> import numpy as np
    >>> from corefold.completion import DeepMatrixCompletion
    >>> from corefold.completion.solvers import LowRank
    >>> class ScaledDescent:
    ...     patience = 10
    ...
    ...     def path(self, problem, start):
    ...         factors, rate = start, 0.5 / problem.share
    ...         while True:
    ...             (a, b), residual = factors.halves(), problem.residual(factors)
    ...             down_a = residual.times(b) / factors.s
    ...             down_b = problem.partition.sum(residual.transposed_times(a)) / factors.s
    ...             factors = LowRank.product(a + rate * down_a, b + rate * down_b, problem.partition)
    ...             yield problem.step(factors)
    ...
    ...     def settle(self, problem, start, best):
    ...         yield from ()
    ...
    ...     def refit(self, problem, step):
    ...         return islice(self.path(problem, step.factors), 20)
    >>> X = np.outer(np.arange(1.0, 31), np.arange(1.0, 21))
    >>> holes = np.random.default_rng(0).random(X.shape) < 0.5
    >>> model = DeepMatrixCompletion(1, solver=ScaledDescent(), random_state=0)
    >>> bool(np.allclose(model.fit_transform(np.where(holes, np.nan, X)), X))
    True
    """

    @property
    def patience(self) -> int:
        """How many steps without a better held-out error end a path."""
        ...

    def path(self, problem: CompletionProblem, start: LowRank) -> Iterator[Step]:
        """Steps from strong to weak regularisation, without an end; the fit stops reading where it is best."""
        ...

    def settle(
        self, problem: CompletionProblem, start: LowRank, best: Step | None
    ) -> Iterator[Iterator[Step]]:
        """Further walks for noisy values, from the values' leading part and from a path's best step; none is fine."""
        ...

    def refit(self, problem: CompletionProblem, step: Step) -> Iterator[Step]:
        """A few steps on all entries, from the best step of all walks and at its rank and penalty."""
        ...


class CompletionProblem:
    """Observed entries, the processes that share their rows, and the size of the whole matrix.

    Attributes:
        observed: the entries of this process.
        partition: the rows of this process, and sums over all processes.
        seed: for random directions; the same in every process.
        entries: observed entries in all processes.
        height: rows in all processes.
        width: columns.
        share: the share of the matrix that is observed.
        own: the rows of this process among those of all.
    """

    def __init__(self, observed: Observed, partition: RowPartition, seed: int = 0) -> None:
        self.observed, self.partition, self.seed = observed, partition, seed
        like = observed.values
        self._row_counts = observed.starts.diff().to(like)
        self._column_counts = partition.sum(observed.column_starts.diff().to(like))
        self.height = round(float(partition.sum(like.new_tensor(float(len(self._row_counts))))))
        self.width = len(self._column_counts)
        self.own = slice(partition.offset, partition.offset + len(self._row_counts))
        self.entries = round(float(self._column_counts.sum()))
        self.share = self.entries / (self.height * self.width)

    def shares(self) -> tuple[Float[Tensor, "height 1"], Float[Tensor, "width 1"]]:
        """The share of each row and of each column that is observed."""
        return self._row_counts[:, None] / self.width, self._column_counts[:, None] / self.height

    def leading(self, rank: int) -> LowRank:
        """The leading part of the observed values over `share`; their expectation is the matrix itself."""
        generator = torch.Generator().manual_seed(self.seed)
        scaled = self.observed.with_values(self.observed.values / self.share)
        return LowRank.leading(scaled, rank, self.partition, generator)

    def residual(self, factors: LowRank) -> Observed:
        """The observed values less those of a matrix."""
        return self.observed.with_values(self.observed.values - factors.at(self.observed))

    def square(self, residual: Observed) -> float:
        """The sum of squares over all processes."""
        return float(self.partition.sum(residual.values.square().sum()))

    def step(
        self,
        factors: LowRank,
        penalty: float = 0.0,
        price: float = 0.0,
        ridge: Float[Tensor, " rank"] | None = None,
    ) -> Step:
        """The step at a matrix whose objective is half the sum of squares plus `price`.

        Args:
            factors: the matrix.
            penalty: weight of the regulariser.
            price: the regulariser's part of the objective.
            ridge: see `Step`; zero by default.
        """
        square = self.square(self.residual(factors))
        ridge = torch.zeros_like(factors.s) if ridge is None else ridge
        error, spread = math.sqrt(square / self.entries), torch.zeros_like(factors.v)
        return Step(factors, penalty, square / 2 + price, error, ridge, spread)
