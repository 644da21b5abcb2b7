r"""The deep objective by Gauss-Newton steps, reweighted, as its penalty is let go.

Weight decay on the L factors of a deep factorization is a Schatten-2/L quasi-norm of their product, so that

    min_X  1/2 ||P(X) - b||^2 + penalty sum_k s_k(X)^(2/L)

has the deep bias without the deep factors. X = A B^T stays in the balanced gauge A = U sqrt(s), B = V sqrt(s), where
s_k <= (|a_k|^2 + |b_k|^2) / 2; the penalty is concave in s, so its tangent bounds it by a ridge on the columns,

    penalty sum_k s_k^(2/L) <= 1/2 sum_k w_k (|a_k|^2 + |b_k|^2) + const,    w_k = penalty (2/L) s_k^(2/L - 1)

which Gauss-Newton lowers: it linearises A B^T, and solves for dA, dB by conjugate gradients. As the penalty falls,
directions whose singular value has gone to nothing are dropped.
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
from corefold.completion.solvers.protocol import Problem, Step

Halves = tuple[Tensor, Tensor]

SLOW, FASTEST = 0.8, 0.05  # what the penalty is multiplied by after a step, and at the least
FOLLOWS, IDLE = 0.85, 0.1  # powers of the last decay that the error at least fell by, or did not
UNFINISHED, TIMES = 0.03, 5  # a step that lowers the objective by this share is taken again, so often at most
# But not below this error, over the values': a penalty that only delays need not be minimised at.
EXACT = 0.05
PATIENCE = 3  # idle steps until directions are looked for anew
WIDE = 0.1  # share of the strongest penalty that leaves nearly all directions
# Sweeps with all entries: from a good posterior few are best, where no matrix of low rank is the truth.
REFITS = 3


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

    def path(self, problem: Problem, start: LowRank) -> Iterator[Step]:
        factors, width = start, start.rank
        penalty, decay, error, idle, again = self.strongest(problem, start), 1.0, math.inf, 0, 0
        while True:
            before = problem.entries * error**2 / 2 + self.price(factors, penalty)
            step = self.step(problem, factors, penalty, 0.1)
            yield step
            settled = step.factors.rank == factors.rank
            unfinished = before < math.inf and step.objective < (1 - UNFINISHED) * before
            last, error, factors = error, step.error, step.factors
            if unfinished and error > EXACT and again < TIMES:
                again += 1
                continue
            # From where only the penalty keeps the values from being met, the error falls as the penalty does.
            follows = settled and error < last * decay**FOLLOWS and not again
            idle = idle + 1 if settled and error > last * decay**IDLE and decay < 1 else 0
            decay = max(FASTEST, min(decay, SLOW) ** 1.5) if follows else SLOW
            again, penalty = 0, penalty * decay
            if idle == PATIENCE and factors.rank < width:
                factors, penalty = self.grown(problem, factors, width)
                error, idle = math.inf, 0

    def price(self, factors: LowRank, penalty: float) -> float:
        """What the objective charges for singular values."""
        return penalty * float((factors.s ** (2 / self.depth)).sum())

    def grown(self, problem: Problem, factors: LowRank, width: int) -> tuple[LowRank, float]:
        """Directions anew, from what is left: the penalty put out those of small singular values as it was strong."""
        new = Problem(problem.residual(factors), problem.rows, problem.seed).leading(width - factors.rank)
        (a, b), (c, d) = factors.halves(), new.halves()
        grown = LowRank.product(torch.cat([a, c], 1), torch.cat([b, d], 1), problem.rows)
        return grown, self.strongest(problem, new)

    def strongest(self, problem: Problem, start: LowRank) -> float:
        """The penalty to begin with."""
        return 0.3 * problem.share * float(start.s[0]) ** (2 - 2 / self.depth)

    def settle(self, problem: Problem, start: LowRank, best: Step) -> Iterator[Iterator[Step]]:
        yield variational.walk(problem, variational.begin(problem, best.factors))
        yield variational.walk(problem, variational.begin(problem, self.wide(problem, start)))

    def wide(self, problem: Problem, start: LowRank) -> LowRank:
        """The values met with nearly all directions: posterior means then put out those that noise has."""
        shallow = replace(self, depth=2)
        factors, penalty = start, WIDE * shallow.strongest(problem, start)
        for _ in range(3):
            factors = shallow.step(problem, factors, penalty, 0.1).factors
        return factors

    def refit(self, problem: Problem, step: Step) -> Iterator[Step]:
        if not step.spread.any():
            step = variational.begin(problem, step.factors)
        return islice(variational.walk(problem, step), REFITS)

    def ridge(self, factors: LowRank, penalty: float) -> Float[Tensor, " rank"]:
        """The weights w_k."""
        power = 2 / self.depth
        return penalty * power * factors.s ** (power - 1)

    def step(self, problem: Problem, factors: LowRank, penalty: float, tolerance: float) -> Step:
        """One Gauss-Newton step at this penalty."""
        factors = gauss_newton(problem, factors, self.ridge(factors, penalty), tolerance, self.products)
        factors = factors.keep(max(1, int((factors.s >= self.smallest * factors.s[0]).sum())))
        square = problem.square(problem.residual(factors))
        objective = square / 2 + self.price(factors, penalty)
        error = math.sqrt(square / problem.entries)
        ridge, spread = self.ridge(factors, penalty), torch.zeros_like(factors.v)
        return Step(factors, penalty, objective, error, ridge, spread)


def gauss_newton(
    problem: Problem, factors: LowRank, ridge: Float[Tensor, " rank"], tolerance: float, most: int
) -> LowRank:
    """One step on `1/2 ||P(A B^T) - b||^2 + 1/2 sum ridge (|a_k|^2 + |b_k|^2)` from balanced halves A, B."""
    observed, rows = problem.observed, problem.rows
    a, b = factors.halves()
    left = problem.residual(factors)
    downhill = left.times(b) - ridge * a, rows.sum(left.transposed_times(a)) - ridge * b
    del left  # of many entries each copy counts
    in_rows, in_columns = problem.shares()
    scale = 1 / (in_rows * factors.s + ridge), 1 / (in_columns * factors.s + ridge)

    def curvature(x: Halves) -> Halves:
        moved = observed.with_values(observed.products(x[0], b).add_(observed.products(a, x[1])))
        by_rows, by_columns = moved.times(b), rows.sum(moved.transposed_times(a))
        return by_rows.addcmul_(ridge, x[0]), by_columns.addcmul_(ridge, x[1])

    def dot(x: Halves, y: Halves) -> Tensor:
        return rows.sum(torch.vdot(x[0].flatten(), y[0].flatten())) + torch.vdot(
            x[1].flatten(), y[1].flatten()
        )

    da, db = conjugate_gradients(curvature, downhill, scale, dot, tolerance, most)
    return LowRank.product(a + da, b + db, rows)


def conjugate_gradients(
    apply: Callable[[Halves], Halves],
    right: Halves,
    scale: Halves,
    dot: Callable[[Halves, Halves], Tensor],
    tolerance: float,
    most: int,
) -> Halves:
    """`x` with `apply(x) = right`, to a relative tolerance, preconditioned by `scale`; `right` is used up.

    In place, for the halves of a large matrix are most of what a fit keeps in memory.
    """
    x = torch.zeros_like(right[0]), torch.zeros_like(right[1])
    left, towards = right, (right[0] * scale[0], right[1] * scale[1])
    square = first = float(dot(left, towards))
    for _ in range(most):
        if not square > tolerance**2 * first:
            break
        image = apply(towards)
        length = square / float(dot(towards, image))
        for side in (0, 1):
            x[side].add_(towards[side], alpha=length)
            left[side].sub_(image[side], alpha=length)
            torch.mul(left[side], scale[side], out=image[side])
        square, before = float(dot(left, image)), square
        for side in (0, 1):
            towards[side].mul_(square / before).add_(image[side])
    return x
