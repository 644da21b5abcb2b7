"""What a solver is: it walks a path of matrices that fit ever closer, and refits the best of them to all entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed
from corefold.completion.distributed import Rows


@dataclass(frozen=True)
class Step:
    """One step of a solver.

    Attributes:
        factors: the matrix so far.
        penalty: weight of the regulariser in the objective; of posterior means the variance of the noise.
        objective: what the solver brings down, at this penalty.
        error: root mean square of what is left at the observed entries.
        ridge: what the penalty comes to on the columns of the two halves, `LowRank.halves`; of posterior means on
            those of the rows' half.
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


@runtime_checkable
class Solver(Protocol):
    """Finds a low-rank matrix with given values at given entries.

    `patience` is how many steps without a better held-out error end a path.
    """

    @property
    def patience(self) -> int: ...

    def path(self, problem: Problem, start: LowRank) -> Iterator[Step]:
        """From strong to weak regularisation; whoever reads it stops where entries held out fit best."""
        ...

    def settle(self, problem: Problem, start: LowRank, best: Step) -> Iterator[Iterator[Step]]:
        """Further walks, from the values' leading part and from a path's best step, for values that no path meets."""
        ...

    def refit(self, problem: Problem, step: Step) -> Iterator[Step]:
        """From the best step of all walks, with what it knows of rank and penalty, on a problem with all entries."""
        ...


class Problem:
    """Observed entries, the processes that share their rows, and what both say of the matrix as a whole.

    Attributes:
        entries: observed in all processes.
        height: rows in all processes.
        share: of the matrix that is observed.
        own: which rows of all this process has.
        seed: of what is drawn to look for directions; the same in every process.
    """

    def __init__(self, observed: Observed, rows: Rows, seed: int = 0) -> None:
        self.observed, self.rows, self.seed = observed, rows, seed
        like = observed.values
        self._in_rows = observed.starts.diff().to(like)
        self._in_columns = rows.sum(observed.column_starts.diff().to(like))
        self.height = round(float(rows.sum(like.new_tensor(float(len(self._in_rows))))))
        self.width = len(self._in_columns)
        self.own = slice(rows.offset, rows.offset + len(self._in_rows))
        self.entries = round(float(self._in_columns.sum()))
        self.share = self.entries / (self.height * self.width)

    def shares(self) -> tuple[Float[Tensor, "height 1"], Float[Tensor, "width 1"]]:
        """Of each row and of each column, the share that is observed."""
        return self._in_rows[:, None] / self.width, self._in_columns[:, None] / self.height

    def leading(self, rank: int) -> LowRank:
        """The leading part of the observed values over `share`, which have the matrix for their mean."""
        generator = torch.Generator().manual_seed(self.seed)
        scaled = self.observed.with_values(self.observed.values / self.share)
        return LowRank.leading(scaled, rank, self.rows, generator)

    def residual(self, factors: LowRank) -> Observed:
        """What is left of the values."""
        return self.observed.with_values(self.observed.values - factors.at(self.observed))

    def square(self, residual: Observed) -> float:
        """The sum of squares over all processes."""
        return float(self.rows.sum(residual.values.square().sum()))
