"""Planted matrices, and runs of gradient descent on them that stop at an error, at a time or when they diverge."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from reproduce.common import Cell
from torch import Tensor

from corefold.completion.distributed import RowPartition
from corefold.completion.entries import observed_entries
from corefold.completion.factors import LowRank
from corefold.completion.solvers import CompletionProblem, Descent
from corefold.core import FactorChain, complete

ROWS = RowPartition()
BLOWN_UP = 10.0  # relative error beyond which a run has diverged


@dataclass(frozen=True)
class Planted:
    """A random matrix of this rank, root mean square 1, of which a share is seen."""

    whole: Tensor
    seen: CompletionProblem

    @classmethod
    def of(cls, side: int, rank: int, share: float, seed: int, device: str = "cpu") -> Planted:
        stream = np.random.default_rng(seed)
        left, right = (stream.standard_normal((side, rank)) for _ in range(2))
        whole = left @ right.T / math.sqrt(rank)
        holes = np.where(stream.random(whole.shape) < share, whole, np.nan)
        observed = observed_entries(holes).to(device)
        return cls(torch.from_numpy(whole).to(device), CompletionProblem(observed, ROWS))

    @property
    def rms(self) -> float:
        return float(self.seen.observed.values.square().mean().sqrt())

    def random_start(self, rank: int) -> LowRank:
        """In place of the first gradient's directions random ones; the scale stays."""
        stream = torch.Generator().manual_seed(1)
        sides = (torch.zeros(side, 0, dtype=torch.float64) for side in self.whole.shape)
        u, v = (complete(side, rank, stream).to(self.whole) for side in sides)
        return LowRank(u, self.seen.leading(rank).s, v)


@dataclass(frozen=True)
class Until:
    """When a run ends: at this relative error at the seen entries, or after so many iterations or processor seconds."""

    target: float
    iterations: int
    seconds: float


def run(path: Iterator[LowRank], every: int, planted: Planted, until: Until) -> Cell:
    """A path's errors relative to the matrix, every so many iterations, and what it took.

    Processor seconds are those of this process, so that others on the machine do not count; judging is not timed.
    """
    points: list[tuple[int, float, float]] = []
    wall = cpu = 0.0
    diverged = met = False
    while not (met or diverged) and len(points) * every < until.iterations and cpu < until.seconds:
        began = time.perf_counter(), time.process_time()
        try:
            factors = next(path)
        except torch.linalg.LinAlgError:  # of numbers that are none any more
            diverged = True
            continue
        wall, cpu = wall + time.perf_counter() - began[0], cpu + time.process_time() - began[1]
        seen, all_ = errors(planted, factors)
        diverged = not all_ < BLOWN_UP
        met = seen <= until.target
        points.append(((len(points) + 1) * every, seen, all_))
    last = points[-1] if points else (every, math.inf, math.inf)
    return {
        "iterations": last[0],
        "met": met,
        "diverged": diverged,
        "seconds": wall,
        "cpu_seconds": cpu,
        "error_seen": last[1] if math.isfinite(last[1]) else None,
        "error_all": last[2] if math.isfinite(last[2]) else None,
        "curve": [point for point in _thinned(points) if math.isfinite(point[2])],
    }


def _thinned(points: list[Any]) -> list[Any]:
    step = max(1, len(points) // 60)
    return [*points[:-1:step], *points[-1:]]


def errors(planted: Planted, factors: LowRank) -> tuple[float, float]:
    """Root mean square at the seen entries over theirs, and of all entries over all."""
    seen = math.sqrt(planted.seen.square(planted.seen.residual(factors)) / planted.seen.entries)
    off = (factors.u * factors.s @ factors.v.mT - planted.whole).norm() / planted.whole.norm()
    return seen / planted.rms, off.item()


def by_solver(planted: Planted, rank: int, solver: Descent, random: bool = False) -> Iterator[LowRank]:
    """The library's solver, from the first gradient's directions or from random ones."""
    start = planted.random_start(rank) if random else planted.seen.leading(rank)
    return (step.factors for step in solver.path(planted.seen, start))


def narrow(planted: Planted, width: int, solver: Descent) -> Iterator[LowRank]:
    """A factorization of this width, `depth` small orthogonal factors without bases, all at one rate."""
    observed, stream = planted.seen.observed, torch.Generator().manual_seed(solver.seed)
    height, columns = planted.whole.shape
    sides = [columns, *[width] * (solver.depth - 1), height]
    frames = []
    for in_, out in itertools.pairwise(sides):
        frame = torch.randn(max(in_, out), min(in_, out), generator=stream, dtype=torch.float64)
        tall = torch.linalg.qr(frame).Q.to(planted.whole)
        frames.append(solver.init_scale * (tall if out >= in_ else tall.mT))
    factors = [frame.requires_grad_() for frame in frames]
    scale = float(planted.seen.leading(width).s[0])
    values, rate = observed.values / scale, solver.lr / planted.seen.share
    while True:
        for _ in range(solver.every):
            a, b = _halves(factors)
            left = observed.with_values(values - observed.products(a.detach(), b.detach()))
            towards = left.times(b.detach()), left.transposed_times(a.detach())
            gradients = torch.autograd.grad((a, b), factors, towards)
            with torch.no_grad():
                for factor, gradient in zip(factors, gradients, strict=True):
                    factor.add_(gradient, alpha=rate)
        with torch.no_grad():
            a, b = _halves(factors)
            found = LowRank.product(a * scale, b, ROWS)
        yield found


def _halves(factors: list[Tensor]) -> tuple[Tensor, Tensor]:
    first, *middle, last = factors
    return last * 1.0, reduce(lambda done, factor: factor @ done, middle, first).mT * 1.0


def unscaled(
    planted: Planted, chain: FactorChain, largest: float, lr: float, gamma: float
) -> Iterator[LowRank]:
    """Descent written out on dense matrices, in the units that make the largest singular value `largest`.

    `lr` and the chain's start are for those units; so is `gamma`, which is the point.
    """
    unit = float(torch.linalg.matrix_norm(planted.whole, 2)) / largest
    entries = planted.seen.observed
    rows, columns = entries.row_of(), entries.columns
    trained = [part.clone().requires_grad_() for part in (chain.factors, chain.left, chain.right)]
    while True:
        for _ in range(50):
            now = FactorChain(trained[1], trained[0], trained[2])
            off = now.dense()[rows, columns] - entries.values / unit
            gradients = torch.autograd.grad(0.5 * off.square().sum(), trained)
            with torch.no_grad():
                for part, gradient, ratio in zip(trained, gradients, (1.0, gamma, gamma), strict=True):
                    part.sub_(gradient, alpha=ratio * lr / planted.seen.share)
        with torch.no_grad():
            now = FactorChain(trained[1], trained[0], trained[2])
            found = LowRank.product(now.left @ now.core() * unit, now.right, ROWS)
        yield found
