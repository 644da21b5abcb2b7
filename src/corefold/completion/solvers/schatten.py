r"""The deep objective by reweighted Gauss-Newton steps, while its penalty falls.

Weight decay on the L factors of a deep factorization is a Schatten-2/L quasi-norm of their product, so that

    min_X  1/2 ||P(X) - b||^2 + penalty sum_k s_k(X)^(2/L)

has the deep bias without the deep factors. X = A B^T stays in the balanced gauge A = U sqrt(s), B = V sqrt(s), where
s_k <= (|a_k|^2 + |b_k|^2) / 2; the penalty is concave in s, so its tangent bounds it by a ridge on the columns,

    penalty sum_k s_k^(2/L) <= 1/2 sum_k w_k (|a_k|^2 + |b_k|^2) + const,    w_k = penalty (2/L) s_k^(2/L - 1)

which Gauss-Newton lowers: it linearises A B^T, and solves for dA, dB by conjugate gradients. As the penalty falls,
directions with a negligible singular value are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.factors import LowRank
from corefold.completion.solvers import variational
from corefold.completion.solvers.protocol import CompletionProblem, Step

Halves = tuple[Tensor, Tensor]

START_PENALTY = 0.3  # share of about the least penalty at which the zero matrix is best
SLOW_DECAY, FAST_DECAY = 0.8, 0.05  # the penalty is multiplied by a factor between these after a step
# The error "follows" the penalty if it falls by at least the decay to this power, and is "idle" if by less than the
# decay to that one.
FOLLOWING_POWER, IDLE_POWER = 0.85, 0.1
MAX_IDLE_STEPS = 3  # until the residual is searched for new directions
# A step that lowers the objective by this share is repeated at the same penalty, at most so many times ...
UNFINISHED_SHARE, MAX_REPEATS = 0.03, 5
# ... unless the error is below this share of the values: from there a lower penalty gains more than another step.
SMALL_ERROR = 0.05
CG_TOLERANCE = 0.1
WIDE_PENALTY_SHARE, WIDE_STEPS = 0.1, 3  # a weak penalty, which leaves nearly all directions
# Sweeps with all entries. From a good posterior a few are best, because no real matrix has exactly a low rank.
REFIT_SWEEPS = 5


@dataclass(frozen=True)
class Schatten:
    """The solver of the deep objective.

    Attributes:
        depth: L above; 2 is the nuclear norm.
        smallest: directions are dropped below this share of the largest singular value.
        products: conjugate gradient steps at most, for each Gauss-Newton step.
        patience: steps without a better held-out error that end the path.
    """

    depth: int = 3
    smallest: float = 1e-3
    products: int = 30
    patience: int = 15

    def path(self, problem: CompletionProblem, start: LowRank) -> Iterator[Step]:
        factors, max_rank = start, start.rank
        penalty, decay, error = self.strongest(problem, start), 1.0, math.inf
        idle_steps = repeats = 0
        while True:
            before = problem.entries * error**2 / 2 + self.price(factors, penalty)
            step = self.step(problem, factors, penalty)
            yield step
            rank_stays = step.factors.rank == factors.rank
            unfinished = before < math.inf and step.objective < (1 - UNFINISHED_SHARE) * before
            last, error, factors = error, step.error, step.factors
            if unfinished and error > SMALL_ERROR and repeats < MAX_REPEATS:
                repeats += 1
                continue
            # Once the penalty alone keeps the matrix from the values, the error falls as fast as the penalty does.
            follows = rank_stays and error < last * decay**FOLLOWING_POWER and not repeats
            idle = rank_stays and error > last * decay**IDLE_POWER and decay < 1
            idle_steps = idle_steps + 1 if idle else 0
            decay = max(FAST_DECAY, min(decay, SLOW_DECAY) ** 1.5) if follows else SLOW_DECAY
            repeats, penalty = 0, penalty * decay
            if idle_steps == MAX_IDLE_STEPS and factors.rank < max_rank:
                factors, penalty = self.grown(problem, factors, max_rank)
                error, idle_steps = math.inf, 0

    def price(self, factors: LowRank, penalty: float) -> float:
        """The penalty's part of the objective."""
        return penalty * float((factors.s ** (2 / self.depth)).sum())

    def grown(self, problem: CompletionProblem, factors: LowRank, rank: int) -> tuple[LowRank, float]:
        """The matrix with new directions, and the penalty to go on with.

        The strong early penalty removed directions of small singular values; the residual shows them again.
        """
        residual = CompletionProblem(problem.residual(factors), problem.partition, problem.seed)
        new = residual.leading(rank - factors.rank)
        (a, b), (new_a, new_b) = factors.halves(), new.halves()
        grown = LowRank.product(torch.cat([a, new_a], 1), torch.cat([b, new_b], 1), problem.partition)
        return grown, self.strongest(problem, new)

    def strongest(self, problem: CompletionProblem, start: LowRank) -> float:
        """The penalty at the start of a path."""
        return START_PENALTY * problem.share * float(start.s[0]) ** (2 - 2 / self.depth)

    def settle(
        self, problem: CompletionProblem, start: LowRank, best: Step | None
    ) -> Iterator[Iterator[Step]]:
        yield (
            iter(()) if best is None else variational.walk(problem, variational.begin(problem, best.factors))
        )
        wide = variational.begin(problem, self.wide(problem, start))
        yield variational.walk(problem, wide)

    def wide(self, problem: CompletionProblem, start: LowRank) -> LowRank:
        """A fit with nearly all directions, from which posterior means remove those that only noise has."""
        shallow = replace(self, depth=2)
        factors, penalty = start, WIDE_PENALTY_SHARE * shallow.strongest(problem, start)
        for _ in range(WIDE_STEPS):
            factors = shallow.step(problem, factors, penalty).factors
        return factors

    def refit(self, problem: CompletionProblem, step: Step) -> Iterator[Step]:
        if not step.spread.any():
            step = variational.begin(problem, step.factors)
        return islice(variational.walk(problem, step), REFIT_SWEEPS)

    def ridge(self, factors: LowRank, penalty: float) -> Float[Tensor, " rank"]:
        """The weights w_k."""
        power = 2 / self.depth
        return penalty * power * factors.s ** (power - 1)

    def step(
        self, problem: CompletionProblem, factors: LowRank, penalty: float, tolerance: float = CG_TOLERANCE
    ) -> Step:
        """One Gauss-Newton step at this penalty."""
        factors = gauss_newton(problem, factors, self.ridge(factors, penalty), tolerance, self.products)
        factors = factors.above(self.smallest)
        return problem.step(factors, penalty, self.price(factors, penalty), self.ridge(factors, penalty))


def gauss_newton(
    problem: CompletionProblem,
    factors: LowRank,
    ridge: Float[Tensor, " rank"],
    tolerance: float,
    max_steps: int,
) -> LowRank:
    """One step on `1/2 ||P(A B^T) - b||^2 + 1/2 sum ridge (|a_k|^2 + |b_k|^2)` from balanced halves A, B."""
    observed, partition = problem.observed, problem.partition
    a, b = factors.halves()
    residual = problem.residual(factors)
    downhill = residual.times(b) - ridge * a, partition.sum(residual.transposed_times(a)) - ridge * b
    del residual  # frees one number for each entry
    row_shares, column_shares = problem.shares()
    scale = 1 / (row_shares * factors.s + ridge), 1 / (column_shares * factors.s + ridge)

    def curvature(x: Halves) -> Halves:
        moved = observed.with_values(observed.products(x[0], b).add_(observed.products(a, x[1])))
        by_rows, by_columns = moved.times(b), partition.sum(moved.transposed_times(a))
        return by_rows.addcmul_(ridge, x[0]), by_columns.addcmul_(ridge, x[1])

    def dot(x: Halves, y: Halves) -> Tensor:
        by_rows, by_columns = (
            torch.vdot(one.flatten(), other.flatten()) for one, other in zip(x, y, strict=True)
        )
        return partition.sum(by_rows) + by_columns

    da, db = conjugate_gradients(curvature, downhill, scale, dot, tolerance, max_steps)
    return LowRank.product(a + da, b + db, partition)


def conjugate_gradients(
    apply: Callable[[Halves], Halves],
    right: Halves,
    scale: Halves,
    dot: Callable[[Halves, Halves], Tensor],
    tolerance: float,
    max_steps: int,
) -> Halves:
    """`x` with `apply(x) = right`, to a relative tolerance, preconditioned by `scale`; `right` is overwritten.

    All updates are in place, because the halves of a large matrix take most of a fit's memory.
    """
    x = torch.zeros_like(right[0]), torch.zeros_like(right[1])
    residual, direction = right, (right[0] * scale[0], right[1] * scale[1])
    square = first = float(dot(residual, direction))
    for _ in range(max_steps):
        if not square > tolerance**2 * first:
            break
        image = apply(direction)
        length = square / float(dot(direction, image))
        for side in (0, 1):
            x[side].add_(direction[side], alpha=length)
            residual[side].sub_(image[side], alpha=length)
            torch.mul(residual[side], scale[side], out=image[side])
        square, before = float(dot(residual, image)), square
        for side in (0, 1):
            direction[side].mul_(square / before).add_(image[side])
    return x
