"""A fit from observed entries to a model: what is held out, the solver's path, the choice on it, and the refit."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.biases import Biases
from corefold.completion.factors import LowRank
from corefold.completion.model import Model
from corefold.completion.observed import Observed
from corefold.completion.distributed import Rows
from corefold.completion.solvers.protocol import Problem, Solver, Step
from corefold.completion.split import split

BETTER = 1e-3  # a held-out error is better if it is lower by this share
WORSE = 1.2  # an error this many times the best is waited for a third as long,
EARLY = 5  # if the best came after so many steps
CLOSE = 1.05  # a path that ends at more than so many times the best is left
SMALL = 0.02  # directions that together come to less than this share of it are left out
SETTLED = 5  # steps without a better error that end a walk of posterior means


@dataclass(frozen=True)
class Settings:
    """What a fit is told; see `DeepMatrixCompletion`."""

    solver: Solver
    width: int
    held_share: float
    bias: bool | Literal["auto"]
    max_iter: int
    tol: float
    seed: int


@dataclass(frozen=True)
class Record:
    """One step of a fit.

    Attributes:
        stage: "path" while the penalty falls, "posterior" in a walk of posterior means, either "with biases" beside
            mean, row and column biases, and "refit" when the entries held out take part.
        penalty: weight of the regulariser, for values scaled to a root mean square of 1; of posterior means the
            variance of the noise.
        objective: of the solver at this penalty, for the same values; of posterior means the free energy.
        error: root mean square error at the entries fitted, in units of the data.
        held_out: the same at the entries held out; nan without any, and in the refit.
        rank: of the low-rank part.
        seconds: since the fit began.
    """

    stage: str
    penalty: float
    objective: float
    error: float
    held_out: float
    rank: int
    seconds: float


@dataclass(frozen=True)
class _Centred:
    """Observed values less the biases, over their root mean square."""

    biases: Biases
    scale: float
    rows: Rows
    seen: Tensor

    @classmethod
    def of(cls, observed: Observed, biases: Biases, rows: Rows) -> _Centred:
        scale = _rms(observed.values - biases.at(observed), rows) or 1.0
        return cls(biases, scale, rows, _seen(observed, rows))

    def problem(self, observed: Observed, seed: int) -> Problem:
        values = (observed.values - self.biases.at(observed)) / self.scale
        return Problem(observed.with_values(values), self.rows, seed)

    def model(self, step: Step, misses: Tensor) -> Model:
        factors = replace(step.factors, s=step.factors.s * self.scale)
        size = step.factors.s.clamp(min=torch.finfo(step.factors.s.dtype).eps)  # 0 where the values are
        ridge, spread = step.ridge / size, step.spread / size
        return Model(self.biases, factors, ridge, spread, self.seen, misses.abs().sort().values)

    def misses(self, step: Step, held: Observed) -> Tensor:
        return held.values - self.biases.at(held) - self.scale * step.factors.at(held)


def fit(
    observed: Observed, rows: Rows, told: Settings, start: Model | None = None
) -> Iterator[tuple[Record, Model]]:
    """Each step with the best model so far; the last one is the answer."""
    search, ends = _Search(observed, rows, told), []
    for biased in _candidates(told.bias, search.watched):
        ends += yield from search.path(biased, start)
    for end in ends:
        if end.lowest <= CLOSE * min(each.lowest for each in ends):
            yield from search.settle(end)
    yield from search.refit(observed)


@dataclass(frozen=True)
class _End:
    """The best step of a path, how good that is, and what comes next."""

    stage: str
    centred: _Centred
    step: Step
    lowest: float


class _Search:
    """Walks the solver's paths, without and with biases, and keeps the step that entries held out like best."""

    def __init__(self, observed: Observed, rows: Rows, told: Settings) -> None:
        self.began = time.perf_counter()
        self.rows, self.told = rows, told
        self.fitted, self.held = split(observed, told.held_share, told.seed, rows.offset)
        self.watched = 0 < _count(self.held, rows) < _count(observed, rows)
        if not self.watched:  # of few entries chance may hold out none, or all
            self.fitted, self.held = split(observed, 0.0, told.seed, rows.offset)
        self.best: tuple[Step, _Centred, Model] | None = None
        self.lowest = math.inf

    def path(self, biased: bool, start: Model | None) -> Generator[tuple[Record, Model], None, list[_End]]:
        """The solver's path with biases, or without; none if what was found before is exact."""
        if self.exact:
            return []
        suffix = " with biases" if biased else ""
        biases = Biases.fit(self.fitted, self.rows) if biased else Biases.none(self.fitted)
        centred = _Centred.of(self.fitted, biases, self.rows)
        problem = centred.problem(self.fitted, self.told.seed)
        first = _first(problem, centred, self.told, start)
        solver = self.told.solver
        step, lowest = yield from self.walk(
            solver.path(problem, first), f"path{suffix}", centred, solver.patience
        )
        return [] if step is None else [_End(f"posterior{suffix}", centred, step, lowest)]

    def settle(self, end: _End) -> Iterator[tuple[Record, Model]]:
        """What the solver does for values that no path meets."""
        if not self.watched or self.exact:
            return
        problem = end.centred.problem(self.fitted, self.told.seed)
        for steps in self.told.solver.settle(problem, problem.leading(self.told.width), end.step):
            yield from self.walk(steps, end.stage, end.centred, SETTLED)

    def walk(
        self, steps: Iterator[Step], stage: str, centred: _Centred, patience: int
    ) -> Generator[tuple[Record, Model], None, tuple[Step | None, float]]:
        """Until the error gets no better, at entries held out if there are any; returns the best step and its error."""
        since, lowest, best = 0, math.inf, None
        for done, step in enumerate(steps, 1):
            misses = centred.misses(step, self.held)
            held_out = _rms(misses, self.rows) if self.watched else math.nan
            judged = held_out if self.watched else step.error * centred.scale
            since = 0 if judged < lowest * (1 - BETTER) else since + 1
            best = step if best is None or not since else best
            lowest = min(judged, lowest)
            if self.best is None or judged < self.lowest * (1 - BETTER):
                self.best, self.lowest = (step, centred, centred.model(step, misses)), judged
            yield self.record(step, stage, centred, held_out), self.best[2]
            # Only after a descent: at first the strongest penalty may make matters worse than the start is.
            hopeless = self.watched and done - since > EARLY and judged >= WORSE * lowest
            late = since >= (patience / 3 if hopeless else patience)
            if judged <= self.told.tol * centred.scale or late or done >= self.told.max_iter:
                break
        return best, lowest

    def refit(self, observed: Observed) -> Iterator[tuple[Record, Model]]:
        """The best step, without its smallest directions, goes on with all entries."""
        if self.best is None:
            return
        step, centred, model = self.best
        centred = replace(centred, seen=_seen(observed, self.rows))
        if self.watched and centred.biases.shrink < math.inf:
            centred = replace(centred, biases=Biases.fit(observed, self.rows))
        problem = centred.problem(observed, self.told.seed)
        if self.watched:
            most = max(SMALL * self.lowest / centred.scale, self.told.tol)
            step = _without_small(step, most, problem.height * problem.width)
        for last in self.told.solver.refit(problem, step):
            yield self.record(last, "refit", centred, math.nan), centred.model(last, model.misses)
            if last.error <= self.told.tol:
                break

    @property
    def exact(self) -> bool:
        return self.best is not None and self.lowest <= self.told.tol * self.best[1].scale

    def record(self, step: Step, stage: str, centred: _Centred, held_out: float) -> Record:
        seconds, rank = time.perf_counter() - self.began, step.factors.rank
        return Record(
            stage, step.penalty, step.objective, step.error * centred.scale, held_out, rank, seconds
        )


def _first(problem: Problem, centred: _Centred, told: Settings, start: Model | None) -> LowRank:
    if start is not None:
        return replace(start.factors, s=start.factors.s / centred.scale).keep(told.width)
    return problem.leading(told.width)


def _candidates(wanted: bool | Literal["auto"], watched: bool) -> tuple[bool, ...]:
    """Without and with biases; which is better the entries held out will tell."""
    return (bool(wanted),) if wanted != "auto" else (False, True) if watched else (False,)


def _without_small(step: Step, most: float, entries: int) -> Step:
    """The step without its last directions, as many as together have at most this root mean square over all entries."""
    tails = step.factors.s.square().flip(0).cumsum(0).flip(0) / entries
    return step.keep(max(1, int((tails > most**2).sum())))


def _seen(observed: Observed, rows: Rows) -> Float[Tensor, " width"]:
    """The share of all rows in which each column is observed."""
    counts = rows.sum(observed.column_starts.diff().to(observed.values))
    return counts / rows.sum(counts.new_tensor(float(observed.shape[0])))


def _count(observed: Observed, rows: Rows) -> int:
    return round(float(rows.sum(observed.values.new_tensor(float(len(observed))))))


def _rms(values: Tensor, rows: Rows) -> float:
    total = rows.sum(torch.stack([values.square().sum(), values.new_tensor(float(len(values)))]))
    return float((total[0] / total[1]).sqrt())
