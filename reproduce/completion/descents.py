"""Planted matrices, and runs of gradient descent on them that end at an error, at a time or when they diverge."""

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
from torch import Tensor

from benchmarks.shared.results import Cell
from corefold.completion.distributed import RowPartition
from corefold.completion.entries import observed_entries
from corefold.completion.factors import LowRank
from corefold.completion.solvers import CompletionProblem, Descent
from corefold.core import DeepCore, complete
from reproduce.stopping import DIVERGED, StoppingRule

ROWS = RowPartition()
CURVE_POINTS = 60


@dataclass(frozen=True)
class SeenMatrix:
    """A random matrix of low rank and root mean square 1, and the completion problem of its seen entries."""

    whole: Tensor
    seen: CompletionProblem

    @classmethod
    def random(cls, side: int, rank: int, share: float, seed: int, device: str = "cpu") -> SeenMatrix:
        """Each entry is seen with probability `share`."""
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
        """Random directions in the place of the first gradient's, with the same scale."""
        stream = torch.Generator().manual_seed(1)
        sides = (torch.zeros(side, 0, dtype=torch.float64) for side in self.whole.shape)
        u, v = (complete(side, rank, stream).to(self.whole) for side in sides)
        return LowRank(u, self.seen.leading(rank).s, v)


def run(path: Iterator[LowRank], every: int, matrix: SeenMatrix, until: StoppingRule) -> Cell:
    """A path's errors relative to the matrix, every so many iterations, and its iterations and seconds.

    Processor seconds are those of this process alone; computing the errors is not timed.
    """
    points: list[tuple[int, float, float]] = []
    wall = cpu = 0.0
    diverged = met = False
    while not (met or diverged) and len(points) * every < until.iterations and cpu < until.seconds:
        began = time.perf_counter(), time.process_time()
        try:
            factors = next(path)
        except torch.linalg.LinAlgError:  # its numbers are no longer finite
            diverged = True
            continue
        wall, cpu = wall + time.perf_counter() - began[0], cpu + time.process_time() - began[1]
        seen, all_ = errors(matrix, factors)
        diverged = not all_ < DIVERGED
        met = seen <= until.error
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
    step = max(1, len(points) // CURVE_POINTS)
    return [*points[:-1:step], *points[-1:]]


def errors(matrix: SeenMatrix, factors: LowRank) -> tuple[float, float]:
    """Root mean square errors, relative: at the seen entries, and at all entries."""
    seen = math.sqrt(matrix.seen.square(matrix.seen.residual(factors)) / matrix.seen.entries)
    off = (factors.u * factors.s @ factors.v.mT - matrix.whole).norm() / matrix.whole.norm()
    return seen / matrix.rms, off.item()


def by_solver(matrix: SeenMatrix, rank: int, solver: Descent, random: bool = False) -> Iterator[LowRank]:
    """The library's solver, from the first gradient's directions or from random ones."""
    start = matrix.random_start(rank) if random else matrix.seen.leading(rank)
    return (step.factors for step in solver.path(matrix.seen, start))


def narrow(matrix: SeenMatrix, width: int, solver: Descent) -> Iterator[LowRank]:
    """A factorization of this width without bases: `depth` small orthogonal factors, all at one rate."""
    observed, stream = matrix.seen.observed, torch.Generator().manual_seed(solver.seed)
    height, columns = matrix.whole.shape
    sides = [columns, *[width] * (solver.depth - 1), height]
    frames = []
    for in_, out in itertools.pairwise(sides):
        frame = torch.randn(max(in_, out), min(in_, out), generator=stream, dtype=torch.float64)
        tall = torch.linalg.qr(frame).Q.to(matrix.whole)
        frames.append(solver.init_scale * (tall if out >= in_ else tall.mT))
    factors = [frame.requires_grad_() for frame in frames]
    scale = float(matrix.seen.leading(width).s[0])
    values, rate = observed.values / scale, solver.lr / matrix.seen.share
    while True:
        for _ in range(solver.every):
            a, b = _halves(factors)
            residual = observed.with_values(values - observed.products(a.detach(), b.detach()))
            towards = residual.times(b.detach()), residual.transposed_times(a.detach())
            gradients = torch.autograd.grad((a, b), factors, towards)
            with torch.no_grad():
                for factor, gradient in zip(factors, gradients, strict=True):
                    factor.add_(gradient, alpha=rate)
        with torch.no_grad():
            a, b = _halves(factors)
            product = LowRank.product(a * scale, b, ROWS)
        yield product


def _halves(factors: list[Tensor]) -> tuple[Tensor, Tensor]:
    first, *middle, last = factors
    return last * 1.0, reduce(lambda done, factor: factor @ done, middle, first).mT * 1.0


def unscaled(
    matrix: SeenMatrix, core: DeepCore, largest: float, lr: float, gamma: float
) -> Iterator[LowRank]:
    """Descent written out on dense matrices, in the units that make the largest singular value `largest`.

    `lr`, `gamma` and the core's start are in those units.
    """
    unit = float(torch.linalg.matrix_norm(matrix.whole, 2)) / largest
    entries = matrix.seen.observed
    rows, columns = entries.row_of(), entries.columns
    trained = [part.clone().requires_grad_() for part in (core.factors, core.left, core.right)]
    while True:
        for _ in range(50):
            now = DeepCore(trained[1], trained[0], trained[2])
            off = now.dense()[rows, columns] - entries.values / unit
            gradients = torch.autograd.grad(0.5 * off.square().sum(), trained)
            with torch.no_grad():
                for part, gradient, ratio in zip(trained, gradients, (1.0, gamma, gamma), strict=True):
                    part.sub_(gradient, alpha=ratio * lr / matrix.seen.share)
        with torch.no_grad():
            now = DeepCore(trained[1], trained[0], trained[2])
            product = LowRank.product(now.left @ now.core() * unit, now.right, ROWS)
        yield product
