r"""The paper's algorithm: gradient descent on a deep factorization, wide or compressed.

The loss is `1/2 mean over all entries of (mask * (W_L ... W_1 - X))^2`. Wide, the factors are d x d, d the longer side,
each init_scale times an orthogonal matrix. Compressed, gradient descent never leaves a subspace that the first gradient
shows, and the same path is taken by a factor chain, whose factors are width x width and whose bases move slower.

Source: Yaras, Wang, Balzano, Qu, ICML 2024, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import islice

import torch
from torch import Tensor, nn

from corefold.completion.bounds import fits_in_memory
from corefold.completion.factors import LowRank
from corefold.completion.solvers.step import Problem, Step
from corefold.core import DeepCore, bases_from_singular_vectors

SMALLEST = 1e-6  # share of the largest singular value below which a direction is none


@dataclass(frozen=True)
class Descent:
    """Gradient descent; what regularises is where it starts and when it ends.

    Attributes:
        depth: L, the number of factors.
        gamma: learning rate of the bases over the factors', for a matrix scaled as below; the paper's .01 is for
            singular values of about 1000, which makes it .01 * 1000^(2/3) = 1 here. 0 freezes the bases; more than 1
            may diverge.
        init_scale: every factor starts at this times an orthogonal matrix.
        lr: learning rate for the sum over all entries, of a matrix scaled to a largest singular value of about 1: the
            curvature at the solution is about L then, so that up to 2/L is stable.
        compressed: whether to run on the compressed factors; False is slow and takes memory for depth * d^2 numbers.
        every: iterations that make one step of the path.
        seed: of the orthogonal matrices.
        patience: steps without a better held-out error that end the path.
    """

    depth: int = 3
    gamma: float = 0.5
    init_scale: float = 1e-3
    lr: float = 0.3
    compressed: bool = True
    every: int = 100
    seed: int = 0
    patience: int = 50

    def path(self, problem: Problem, start: LowRank) -> Iterator[Step]:
        form = self._compressed(problem, start) if self.compressed else self._wide(problem)
        return self._descend(problem, form, float(start.s[0]) or 1.0)

    def settle(self, problem: Problem, start: LowRank, best: Step) -> Iterator[Iterator[Step]]:
        yield from ()

    def refit(self, problem: Problem, step: Step) -> Iterator[Step]:
        """There is no penalty to keep: the solution, as a chain, goes a little further with all entries."""
        # Of the data, as on the path: what few steps have found so far may be much smaller.
        scale = float(problem.leading(step.factors.rank).s[0]) or 1.0
        root = (step.factors.s / scale) ** (1 / self.depth)
        chain = DeepCore(step.factors.u, root.diag().repeat(self.depth, 1, 1), step.factors.v)
        return islice(self._descend(problem, _Chain(chain, self.gamma), scale), 3)

    def _compressed(self, problem: Problem, start: LowRank) -> _Chain:
        """Bases from the first gradient, which points along the observed values."""
        width = min(2 * start.rank, problem.height, problem.width)
        stream = torch.Generator().manual_seed(self.seed)
        # The signs of singular vectors are free, but partners are random: fixed, a start has one path.
        largest = start.v.abs().argmax(0, keepdim=True)
        signs = start.v.gather(0, largest).sign()
        u = problem.rows.all_of(start.u)
        left, right = bases_from_singular_vectors(u * signs, start.v * signs, width, "gradient", stream)
        left = left[problem.own]
        return _Chain(DeepCore.at_start(left, right, self.depth, self.init_scale), self.gamma)

    def _wide(self, problem: Problem) -> _Wide:
        side = max(problem.height, problem.width)
        numbers = 3 * self.depth * side**2  # factors, their gradients, and products on the way
        fits_in_memory("the wide form's factors", numbers, 8, "set compressed=True")
        stream = torch.Generator().manual_seed(self.seed)
        shapes = [(side, side)] * self.depth
        shapes[0] = (side, problem.width)
        shapes[-1] = (problem.height, side if self.depth > 1 else problem.width)
        frames = [torch.randn(*shape, generator=stream, dtype=torch.float64) for shape in shapes]
        factors = [self.init_scale * nn.init.orthogonal_(frame, generator=stream) for frame in frames]
        factors[-1] = factors[-1][problem.own]
        return _Wide([factor.to(problem.observed.values) for factor in factors])

    def _descend(self, problem: Problem, form: _Chain | _Wide, scale: float) -> Iterator[Step]:
        """In units in which the largest singular value is about 1; a given gamma is stable for all data then."""
        observed, rows, rate = problem.observed, problem.rows, self.lr / problem.share
        values = observed.values / scale
        while True:
            for _ in range(self.every):
                a, b = form.halves()
                left = observed.with_values(values - observed.products(a.detach(), b.detach()))
                towards = left.times(b.detach()), rows.sum(left.transposed_times(a.detach()))
                gradients = torch.autograd.grad((a, b), form.trained, towards)
                with torch.no_grad():
                    for tensor, gradient, ratio in zip(form.trained, gradients, form.ratios, strict=True):
                        if tensor is form.of_rows:  # which each process knows of its own
                            rows.sum(gradient)
                        tensor.add_(gradient, alpha=ratio * rate)
            with torch.no_grad():
                a, b = form.halves()
                factors = LowRank.product(a * scale, b, rows)
                factors = factors.keep(max(1, int((factors.s > SMALLEST * factors.s[0]).sum())))
                square = problem.square(problem.residual(factors))
            error = math.sqrt(square / problem.entries)
            ridge, spread = torch.zeros_like(factors.s), torch.zeros_like(factors.v)
            yield Step(factors, 0.0, square / 2, error, ridge, spread)


class _Chain:
    """The compressed factors: a small core between two bases, which move slower."""

    def __init__(self, chain: DeepCore, gamma: float) -> None:
        self.trained = [part.clone().requires_grad_() for part in (chain.factors, chain.left, chain.right)]
        self.ratios = (1.0, gamma, gamma)
        self.of_rows = self.trained[0]

    def halves(self) -> tuple[Tensor, Tensor]:
        factors, left, right = self.trained
        return left @ DeepCore(left, factors, right).core(), right * 1.0


class _Wide:
    """The factors as they are."""

    def __init__(self, factors: list[Tensor]) -> None:
        self.trained = [factor.requires_grad_() for factor in factors]
        self.ratios = (1.0,) * len(factors)
        self.of_rows = None

    def halves(self) -> tuple[Tensor, Tensor]:
        first, *middle, last = self.trained
        return last, reduce(lambda done, factor: factor @ done, middle, first).mT * 1.0
