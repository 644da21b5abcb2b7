r"""The paper's algorithm: gradient descent on a deep factorization, wide or compressed.

The loss is `1/2 mean over all entries of (mask * (W_L ... W_1 - X))^2`. Wide, the factors are d x d, d the longer side,
each init_scale times an orthogonal matrix. Compressed, gradient descent never leaves a subspace that the first gradient
shows. It takes the same path on a deep core, whose factors are width x width, between bases that move slower.

Source: Yaras, Wang, Balzano, Qu, ICML 2024, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import islice

import torch
from torch import Tensor, nn

from corefold.completion.factors import LowRank
from corefold.completion.memory import require_memory
from corefold.completion.solvers.protocol import CompletionProblem, Step
from corefold.core import DeepCore, bases_from_singular_vectors, with_positive_peaks

REFIT_STEPS = 3


@dataclass(frozen=True)
class Descent:
    """Gradient descent; the only regularisation is a small start and an early end.

    Attributes:
        depth: L, the number of factors.
        gamma: learning rate of the bases over the factors', for a matrix scaled as below; the paper's .01 is meant for
            singular values of about 1000, which makes it .01 * 1000^(2/3) = 1 here. 0 freezes the bases; more than 1
            may diverge.
        init_scale: every factor starts at this times an orthogonal matrix.
        lr: learning rate for the sum over all entries, of a matrix scaled to a largest singular value of about 1: the
            curvature at the solution is about L then, so that up to 2/L is stable.
        compressed: whether to run on the compressed factors; the wide form is slow and takes memory for depth * d^2
            numbers.
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

    def path(self, problem: CompletionProblem, start: LowRank) -> Iterator[Step]:
        form = self._compressed(problem, start) if self.compressed else self._wide(problem)
        return self._descend(problem, form, float(start.s[0]) or 1.0)

    def settle(
        self, problem: CompletionProblem, start: LowRank, best: Step | None
    ) -> Iterator[Iterator[Step]]:
        yield from ()

    def refit(self, problem: CompletionProblem, step: Step) -> Iterator[Step]:
        """There is no penalty to keep: the solution, as a deep core, goes a little further with all entries."""
        # The scale of the data, as on the path: the matrix found in few steps may be much smaller.
        scale = float(problem.leading(step.factors.rank).s[0]) or 1.0
        root = (step.factors.s / scale) ** (1 / self.depth)
        core = DeepCore(step.factors.u, root.diag().repeat(self.depth, 1, 1), step.factors.v)
        return islice(self._descend(problem, _CompressedForm(core, self.gamma), scale), REFIT_STEPS)

    def _compressed(self, problem: CompletionProblem, start: LowRank) -> _CompressedForm:
        """Bases from the first gradient, which points along the observed values."""
        width = min(2 * start.rank, problem.height, problem.width)
        stream = torch.Generator().manual_seed(self.seed)
        # The bases have random partners, so that other signs of the singular vectors would mean another path.
        v, u = with_positive_peaks(start.v, problem.partition.gather(start.u))
        left, right = bases_from_singular_vectors(u, v, width, "gradient", stream)
        left = left[problem.own]
        return _CompressedForm(DeepCore.at_start(left, right, self.depth, self.init_scale), self.gamma)

    def _wide(self, problem: CompletionProblem) -> _WideForm:
        side, values = max(problem.height, problem.width), problem.observed.values
        numbers = 3 * self.depth * side**2  # factors, their gradients, and products on the way
        require_memory("the wide form's factors", numbers * 8, "set compressed=True", values.device)
        stream = torch.Generator().manual_seed(self.seed)
        shapes = [(side, side)] * self.depth
        shapes[0] = (side, problem.width)
        shapes[-1] = (problem.height, side if self.depth > 1 else problem.width)
        noise = [torch.randn(*shape, generator=stream, dtype=torch.float64) for shape in shapes]
        factors = [self.init_scale * nn.init.orthogonal_(matrix, generator=stream) for matrix in noise]
        factors[-1] = factors[-1][problem.own]
        return _WideForm([factor.to(values) for factor in factors])

    def _descend(
        self, problem: CompletionProblem, form: _CompressedForm | _WideForm, scale: float
    ) -> Iterator[Step]:
        """Descend in units in which the largest singular value is about 1, where a rate is as stable for any data."""
        observed, partition, rate = problem.observed, problem.partition, self.lr / problem.share
        values = observed.values / scale
        while True:
            for _ in range(self.every):
                a, b = form.halves()
                residual = observed.with_values(values - observed.products(a.detach(), b.detach()))
                downhill = residual.times(b.detach()), partition.sum(residual.transposed_times(a.detach()))
                gradients = torch.autograd.grad((a, b), form.trained, downhill)
                with torch.no_grad():
                    for tensor, gradient, ratio in zip(form.trained, gradients, form.ratios, strict=True):
                        if tensor is form.shared:
                            partition.sum(gradient)  # each process knows the part that its rows have in it
                        tensor.add_(gradient, alpha=ratio * rate)
            with torch.no_grad():
                a, b = form.halves()
                factors = LowRank.product(a * scale, b, partition).above()
                yield problem.step(factors)


class _CompressedForm:
    """A small core between two bases, which move slower.

    Attributes:
        trained: core factors, left and right basis.
        ratios: the learning rate of each over that of the core.
        shared: the trained tensor that all processes have alike though its gradient comes from the rows.
    """

    def __init__(self, start: DeepCore, gamma: float) -> None:
        self.trained = [part.clone().requires_grad_() for part in (start.factors, start.left, start.right)]
        self.ratios = (1.0, gamma, gamma)
        self.shared = self.trained[0]

    def halves(self) -> tuple[Tensor, Tensor]:
        factors, left, right = self.trained
        return left @ DeepCore(left, factors, right).core(), right * 1.0


class _WideForm:
    """The factors as they are; attributes as those of `_CompressedForm`."""

    def __init__(self, factors: list[Tensor]) -> None:
        self.trained = [factor.requires_grad_() for factor in factors]
        self.ratios = (1.0,) * len(factors)
        self.shared = None

    def halves(self) -> tuple[Tensor, Tensor]:
        first, *middle, last = self.trained
        return last, reduce(lambda done, factor: factor @ done, middle, first).mT * 1.0
