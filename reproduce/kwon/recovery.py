"""Recovering a low-rank matrix by gradient descent on deep factors: wide ones, and the compressed ones of Kwon et al.

Every problem is a target M with a largest singular value of 1, and a linear map `see` from errors to gradients:

    gradient by the product P = see(P - M),    surrogate = see(M)

with `see` the identity for factorization, the seen entries over their share for completion, and
`1/m sum_i <A_i, .> A_i` for sensing. The spectral start knows M through the surrogate only.

The compressed form is a `DeepCore` whose parts are all trained and start at `init_scale` times orthonormal columns:
depth 3 is one square factor between two tall ones. Source: Kwon et al. (arXiv 2311.05061); written from the method's
description, without the authors' code.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.shared.results import Cell
from corefold.core import DeepCore, GradientBases, bases_from_gradient
from corefold.dynamics import orthogonal_start, product
from reproduce.stopping import DIVERGED, StoppingRule

DEPTH, INIT_SCALE = 3, 1e-2
See = Callable[[Float[Tensor, "side side"]], Float[Tensor, "side side"]]
Parts = list[Tensor]


@dataclass(frozen=True)
class RecoveryProblem:
    """A planted matrix in float64, and the linear map that makes gradients of errors."""

    target: Float[Tensor, "side side"]
    rank: int
    see: See


@dataclass(frozen=True)
class Form:
    """A way to write the matrix, and the rates of its parts.

    Attributes:
        bases: the source of the compressed form's bases; None for wide factors.
        alpha: the outer factors' rate over the middle one's (the authors' discrepant rates).
    """

    bases: GradientBases | None
    alpha: float = 1.0


FORMS = {
    "wide": Form(None),
    "compressed": Form("spectral"),
    "compressed, alpha 5": Form("spectral", 5.0),
    "random bases": Form("random"),
}


def factorization(side: int, rank: int, seed: int) -> RecoveryProblem:
    """The whole matrix is seen."""
    return RecoveryProblem(_target(side, rank, seed), rank, lambda off: off)


def completion(side: int, rank: int, share: float, seed: int) -> RecoveryProblem:
    """Each entry is seen with this probability."""
    seen = torch.rand(side, side, generator=_stream(seed, 1), dtype=torch.float64) < share
    weights = seen / share
    return RecoveryProblem(_target(side, rank, seed), rank, lambda off: weights * off)


def sensing(side: int, rank: int, count: int, seed: int) -> RecoveryProblem:
    """`count` Gaussian matrices' inner products with the target are seen."""
    maps = torch.randn(count, side * side, generator=_stream(seed, 1), dtype=torch.float64)
    return RecoveryProblem(
        _target(side, rank, seed), rank, lambda off: (maps.mT @ (maps @ off.flatten()) / count).view_as(off)
    )


def _target(side: int, rank: int, seed: int) -> Tensor:
    left, right = torch.randn(2, side, rank, generator=_stream(seed, 0), dtype=torch.float64)
    whole = left @ right.mT
    return whole / torch.linalg.matrix_norm(whole, 2)


def _stream(seed: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(10 * seed + purpose)


def start(problem: RecoveryProblem, form: Form, seed: int) -> Parts:
    """Wide factors; or the left basis, factors and right basis of a core that is twice as wide as the rank."""
    stream, side = _stream(seed, 2), problem.target.shape[0]
    if form.bases is None:
        return orthogonal_start(side, side, DEPTH, INIT_SCALE, stream)
    surrogate = problem.see(problem.target)  # minus the gradient of a product that is zero
    left, right = bases_from_gradient(-surrogate, 2 * problem.rank, form.bases, stream)
    core = DeepCore.at_start(left, right, DEPTH - 2, INIT_SCALE)
    return [INIT_SCALE * core.left, core.factors, INIT_SCALE * core.right]


def descend(
    problem: RecoveryProblem, form: Form, seed: int, lr: float
) -> Iterator[Float[Tensor, "side side"]]:
    """The product at step 0, 1, 2, ... of gradient descent, without end."""
    parts = [part.clone().requires_grad_() for part in start(problem, form, seed)]
    rates = [lr] * DEPTH if form.bases is None else [form.alpha * lr, lr, form.alpha * lr]
    while True:
        whole = product(parts) if form.bases is None else DeepCore(*parts).dense()
        now = whole.detach()
        yield now
        gradients = torch.autograd.grad(whole, parts, problem.see(now - problem.target))
        with torch.no_grad():
            for part, gradient, rate in zip(parts, gradients, rates, strict=True):
                part.sub_(gradient, alpha=rate)


def run(
    problem: RecoveryProblem, form: Form, seed: int, lr: float, until: StoppingRule, every: int = 10
) -> Cell:
    """Errors every so many steps, and the processor seconds of the steps; computing the errors is not timed."""
    path = descend(problem, form, seed, lr)
    norm, errors, cpu, met = problem.target.norm(), [], 0.0, False
    for _ in range(0, until.iterations + 1, every):
        began = time.process_time()
        now = next(path)
        cpu += time.process_time() - began
        errors.append(((now - problem.target).norm() / norm).item())
        met = errors[-1] <= until.error
        if met or not errors[-1] < DIVERGED:
            break
        began = time.process_time()
        for _ in range(every - 1):
            next(path)
        cpu += time.process_time() - began
    return {
        "lr": lr,
        "steps": every * (len(errors) - 1),
        "met": met,
        "cpu_seconds": cpu,
        "parameters": sum(part.numel() for part in start(problem, form, seed)),
        "error": errors[-1] if math.isfinite(errors[-1]) else None,
        "errors": [one for one in errors if math.isfinite(one)],
    }


def fastest_rate(
    problems: Mapping[int, RecoveryProblem],
    form: Form,
    rates: Sequence[float],
    until: StoppingRule,
    every: int = 10,
) -> Cell:
    """The rate that reaches the error on most problems, in the fewest steps; and the results of all rates.

    Problems are given by their seed.
    """
    tried = []
    for lr in rates:
        runs = [run(problem, form, seed, lr, until, every) for seed, problem in problems.items()]
        tried.append({"lr": lr, "steps": [one["steps"] for one in runs], "met": [one["met"] for one in runs]})
    best = min(tried, key=lambda one: (-sum(one["met"]), sum(one["steps"])))
    return {"lr": best["lr"], "tried": tried}


def thinned(errors: Sequence[float], every: int, points: int = 40) -> dict[str, list[float]]:
    """Points of a curve for a figure over the logarithm of steps."""
    last = len(errors) - 1
    kept = sorted({round(last ** (place / points)) for place in range(points + 1)})
    return {"steps": [float(every * place) for place in kept], "errors": [errors[place] for place in kept]}
