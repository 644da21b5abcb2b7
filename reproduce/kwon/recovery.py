"""Recovering a low-rank matrix by gradient descent on deep factors: wide ones, and the compressed ones of Kwon et al.

Every problem is a target M, of which the largest singular value is 1, and what a gradient sees of an error:

    gradient by the product P = see(P - M),    surrogate = see(M)

with `see` the identity for factorization, the seen entries over their share for completion, and
`1/m sum_i <A_i, .> A_i` for sensing. The surrogate is all that the spectral start knows of M.

The compressed form is a `FactorChain` of which all parts are trained and start at `init_scale` times orthonormal
columns: depth 3 is one square factor between two tall ones. Source: Kwon et al. (arXiv 2311.05061); written from the
method's description, none of the authors' code is used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from reproduce.common import Cell
from torch import Tensor

from corefold.core import Bases, FactorChain, bases_from_gradient
from corefold.dynamics import orthogonal_start, product

DEPTH, INIT_SCALE = 3, 1e-2
BLOWN_UP = 10.0  # relative error beyond which a run has diverged
See = Callable[[Float[Tensor, "side side"]], Float[Tensor, "side side"]]
Parts = list[Tensor]


@dataclass(frozen=True)
class Problem:
    """A planted matrix and what gradients see of it; float64."""

    target: Float[Tensor, "side side"]
    rank: int
    see: See


@dataclass(frozen=True)
class Form:
    """How the matrix is written, and how fast its parts go.

    Attributes:
        bases: where those of the compressed form come from; None for wide factors.
        alpha: the outer factors' rate over the middle one's (the authors' discrepant rates).
    """

    bases: Bases | None
    alpha: float = 1.0


FORMS = {
    "wide": Form(None),
    "compressed": Form("spectral"),
    "compressed, alpha 5": Form("spectral", 5.0),
    "random bases": Form("random"),
}


def factorization(side: int, rank: int, seed: int) -> Problem:
    """The whole matrix is seen."""
    return Problem(_target(side, rank, seed), rank, lambda off: off)


def completion(side: int, rank: int, share: float, seed: int) -> Problem:
    """Each entry is seen with this probability."""
    seen = torch.rand(side, side, generator=_stream(seed, 1), dtype=torch.float64) < share
    weights = seen / share
    return Problem(_target(side, rank, seed), rank, lambda off: weights * off)


def sensing(side: int, rank: int, count: int, seed: int) -> Problem:
    """`count` Gaussian matrices' inner products with the target are seen."""
    maps = torch.randn(count, side * side, generator=_stream(seed, 1), dtype=torch.float64)
    return Problem(
        _target(side, rank, seed), rank, lambda off: (maps.mT @ (maps @ off.flatten()) / count).view_as(off)
    )


def _target(side: int, rank: int, seed: int) -> Tensor:
    left, right = torch.randn(2, side, rank, generator=_stream(seed, 0), dtype=torch.float64)
    whole = left @ right.mT
    return whole / torch.linalg.matrix_norm(whole, 2)


def _stream(seed: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(10 * seed + purpose)


def start(problem: Problem, form: Form, seed: int) -> Parts:
    """Wide factors, or the left basis, factors and right basis of a chain as wide as twice the rank."""
    stream, side = _stream(seed, 2), problem.target.shape[0]
    if form.bases is None:
        return orthogonal_start(side, side, DEPTH, INIT_SCALE, stream)
    surrogate = problem.see(problem.target)  # minus the gradient of a product that is zero
    left, right = bases_from_gradient(-surrogate, 2 * problem.rank, form.bases, stream)
    chain = FactorChain.at_start(left, right, DEPTH - 2, INIT_SCALE)
    return [INIT_SCALE * chain.left, chain.factors, INIT_SCALE * chain.right]


def descend(problem: Problem, form: Form, seed: int, lr: float) -> Iterator[Float[Tensor, "side side"]]:
    """The product at step 0, 1, 2, ... of gradient descent, without end."""
    parts = [part.clone().requires_grad_() for part in start(problem, form, seed)]
    rates = [lr] * DEPTH if form.bases is None else [form.alpha * lr, lr, form.alpha * lr]
    while True:
        whole = product(parts) if form.bases is None else _chain(parts).dense()
        now = whole.detach()
        yield now
        gradients = torch.autograd.grad(whole, parts, problem.see(now - problem.target))
        with torch.no_grad():
            for part, gradient, rate in zip(parts, gradients, rates, strict=True):
                part.sub_(gradient, alpha=rate)


def _chain(parts: Parts) -> FactorChain:
    left, factors, right = parts
    return FactorChain(left, factors, right)


@dataclass(frozen=True)
class Until:
    """When a run ends: at this error, relative and of all entries, or after so many steps."""

    error: float
    steps: int


def run(problem: Problem, form: Form, seed: int, lr: float, until: Until, every: int = 10) -> Cell:
    """Errors every so many steps, and the processor seconds that the steps took; judging is not timed."""
    path = descend(problem, form, seed, lr)
    norm, errors, cpu, met = problem.target.norm(), [], 0.0, False
    for _ in range(0, until.steps + 1, every):
        began = time.process_time()
        now = next(path)
        cpu += time.process_time() - began
        errors.append(((now - problem.target).norm() / norm).item())
        met = errors[-1] <= until.error
        if met or not errors[-1] < BLOWN_UP:
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


def quickest(
    problems: Mapping[int, Problem], form: Form, rates: Sequence[float], until: Until, every: int = 10
) -> Cell:
    """The rate that comes to the error on all problems, given by seed, in the fewest steps; and what was tried.

    Where none does on all, the one that does on most.
    """
    tried = []
    for lr in rates:
        runs = [run(problem, form, seed, lr, until, every) for seed, problem in problems.items()]
        tried.append({"lr": lr, "steps": [one["steps"] for one in runs], "met": [one["met"] for one in runs]})
    best = min(tried, key=lambda one: (-sum(one["met"]), sum(one["steps"])))
    return {"lr": best["lr"], "tried": tried}


def thinned(errors: Sequence[float], every: int, points: int = 40) -> dict[str, list[float]]:
    """What a figure over the logarithm of steps needs of a curve."""
    last = len(errors) - 1
    kept = sorted({round(last ** (place / points)) for place in range(points + 1)})
    return {"steps": [float(every * place) for place in kept], "errors": [errors[place] for place in kept]}
