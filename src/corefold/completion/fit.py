"""A fit from observed entries to a model: what is held out, the solver's path, the choice on it, and the refit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from corefold.completion.biases import Biases
from corefold.completion.factors import LowRank
from corefold.completion.model import Model
from corefold.completion.observed import Observed
from corefold.completion.processes import Rows
from corefold.completion.solvers.step import Problem, Solver, Step
from corefold.completion.split import split

BETTER = 1e-3  # a held-out error is better if it is lower by this share
WORSE = 1.2  # an error this many times the best is waited for a third as long,
EARLY = 5  # if the best came after so many steps
ALIKE = 5e-3  # and at a lower rank as good if it is higher by no more than this


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
        stage: "path" while the penalty falls, "path with biases" beside mean, row and column biases, "refit" when the
            entries held out take part.
        penalty: weight of the regulariser, for values scaled to a root mean square of 1.
        objective: of the solver at this penalty, for the same values.
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
        counts = rows.sum(observed.column_starts.diff().to(observed.values))
        height = float(rows.sum(counts.new_tensor(float(observed.shape[0]))))
        return cls(biases, scale, rows, counts / height)

    def problem(self, observed: Observed, seed: int) -> Problem:
        values = (observed.values - self.biases.at(observed)) / self.scale
        return Problem(observed.with_values(values), self.rows, seed)

    def model(self, step: Step, misses: Tensor) -> Model:
        factors = replace(step.factors, s=step.factors.s * self.scale)
        return Model(self.biases, factors, step.ridge / step.factors.s, self.seen, misses.abs().sort().values)

    def misses(self, step: Step, held: Observed) -> Tensor:
        return held.values - self.biases.at(held) - self.scale * step.factors.at(held)


def fit(
    observed: Observed, rows: Rows, told: Settings, start: Model | None = None
) -> Iterator[tuple[Record, Model]]:
    """Each step with the best model so far; the last one is the answer."""
    began = time.perf_counter()
    fitted, held = split(observed, told.held_share, told.seed, rows.offset)
    watched = _count(held, rows) > 0
    fitted = fitted if watched else observed

    def record(step: Step, stage: str, scale: float, held_out: float) -> Record:
        seconds, rank = time.perf_counter() - began, step.factors.rank
        return Record(stage, step.penalty, step.objective, step.error * scale, held_out, rank, seconds)

    best: tuple[Step, _Centred, Model] | None = None
    lowest = math.inf
    for biased in _candidates(told.bias, watched):
        if best is not None and lowest <= told.tol * best[1].scale:
            break  # exact without biases
        stage = "path with biases" if biased else "path"
        centred = _Centred.of(fitted, Biases.fit(fitted, rows) if biased else Biases.none(fitted), rows)
        problem, since, lowest_here = centred.problem(fitted, told.seed), 0, math.inf
        for done, step in enumerate(told.solver.path(problem, _first(problem, centred, told, start)), 1):
            misses = centred.misses(step, held)
            held_out = _rms(misses, rows) if watched else math.nan
            judged = held_out if watched else step.error * centred.scale
            since = 0 if judged < lowest_here * (1 - BETTER) else since + 1
            lowest_here = min(judged, lowest_here)
            if best is None or judged < lowest * (1 - BETTER):
                best, lowest = (step, centred, centred.model(step, misses)), judged
            yield record(step, stage, centred.scale, held_out), best[2]
            # Only after a descent: at first the strongest penalty may make matters worse than the start is.
            hopeless = watched and done - since > EARLY and judged >= WORSE * lowest_here
            patience = told.solver.patience / 3 if hopeless else told.solver.patience
            if judged <= told.tol * centred.scale or since >= patience or done >= told.max_iter:
                break
    if best is None:
        return
    step, centred, model = best
    if watched:
        step = _lowest_rank(step, centred, held, max(lowest * (1 + ALIKE), told.tol * centred.scale))
        if centred.biases.shrink < math.inf:
            centred = replace(centred, biases=Biases.fit(observed, rows))
    for last in told.solver.refit(centred.problem(observed, told.seed), step):
        yield record(last, "refit", centred.scale, math.nan), centred.model(last, model.misses)


def _first(problem: Problem, centred: _Centred, told: Settings, start: Model | None) -> LowRank:
    if start is not None:
        return replace(start.factors, s=start.factors.s / centred.scale)
    return problem.leading(told.width)


def _candidates(wanted: bool | Literal["auto"], watched: bool) -> tuple[bool, ...]:
    """Without and with biases; which is better the entries held out will tell."""
    return (bool(wanted),) if wanted != "auto" else (False, True) if watched else (False,)


def _lowest_rank(step: Step, centred: _Centred, held: Observed, most: float) -> Step:
    """The step cut to the lowest rank at which the error at the held-out entries is at most this."""
    for rank in range(1, step.factors.rank):
        cut = replace(step, factors=step.factors.keep(rank), ridge=step.ridge[:rank])
        if _rms(centred.misses(cut, held), centred.rows) <= most:
            return cut
    return step


def _count(observed: Observed, rows: Rows) -> int:
    return round(float(rows.sum(observed.values.new_tensor(float(len(observed))))))


def _rms(values: Tensor, rows: Rows) -> float:
    total = rows.sum(torch.stack([values.square().sum(), values.new_tensor(float(len(values)))]))
    return float((total[0] / total[1]).sqrt())
