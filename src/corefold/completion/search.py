"""A fit: it holds entries out, walks the solver's paths, chooses the best step and refits it to all entries."""

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
from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.model import CompletedMatrix, RowRegression
from corefold.completion.observed import Observed
from corefold.completion.solvers.protocol import CompletionProblem, Solver, Step
from corefold.completion.split import split

MIN_IMPROVEMENT = 1e-3  # share by which a held-out error must fall to count as better
# A walk that has improved for some steps, and whose error then rises to this ratio of its best, gets less patience.
HOPELESS_RATIO, HOPELESS_PATIENCE_SHARE, MIN_DESCENT_STEPS = 1.2, 1 / 3, 5
MAX_PATH_RATIO = 1.05  # paths that end at a larger ratio of the best error are not followed further
MAX_TRUNCATION_SHARE = (
    0.02  # The directions left out of the refit may add up to this share of the best error.
)
POSTERIOR_PATIENCE = 5  # steps without a better error that end a walk of posterior means


@dataclass(frozen=True)
class FitSettings:
    """The settings of a fit, decided; see `DeepMatrixCompletion`."""

    solver: Solver
    start_rank: int
    validation_share: float
    bias: bool | Literal["auto"]
    max_iter: int
    tol: float
    seed: int


@dataclass(frozen=True)
class StepRecord:
    """One step of a fit.

    Attributes:
        stage: "path" while the penalty falls, "posterior" in a walk of posterior means, either "with biases" beside
            mean, row and column biases, and "refit" when the held-out entries take part.
        penalty: weight of the regulariser, for values scaled to a root mean square of 1; of posterior means the
            variance of the noise.
        objective: the solver's objective at this penalty, for the same values; of posterior means the free energy.
        error: root mean square error at the fitted entries, in units of the data.
        held_out: the same at the held-out entries; nan without any, and in the refit.
        rank: rank of the low-rank part.
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
class _Standardization:
    """Values less their biases, over their root mean square: from the data's units to the solver's and back."""

    biases: Biases
    scale: float
    partition: RowPartition
    column_shares: Tensor

    @classmethod
    def of(cls, observed: Observed, biases: Biases, partition: RowPartition) -> _Standardization:
        scale = _rms(observed.values - biases.at(observed), partition) or 1.0
        return cls(biases, scale, partition, _column_shares(observed, partition))

    def problem(self, observed: Observed, seed: int) -> CompletionProblem:
        values = (observed.values - self.biases.at(observed)) / self.scale
        return CompletionProblem(observed.with_values(values), self.partition, seed)

    def model(self, step: Step, errors: Tensor) -> CompletedMatrix:
        factors = replace(step.factors, s=step.factors.s * self.scale)
        size = step.factors.s.clamp(min=torch.finfo(step.factors.s.dtype).eps)  # it is 0 where all values are
        regression = RowRegression(factors.v, factors.s, step.ridge / size, step.spread / size)
        held_out_errors = errors.abs().sort().values
        return CompletedMatrix(self.biases, factors, self.column_shares, regression, held_out_errors)

    def errors(self, step: Step, validation: Observed) -> Tensor:
        return validation.values - self.biases.at(validation) - self.scale * step.factors.at(validation)


def fit(
    observed: Observed, partition: RowPartition, settings: FitSettings, start: LowRank | None = None
) -> Iterator[tuple[StepRecord, CompletedMatrix]]:
    """Each step with the best model so far; the last one is the result."""
    search, ends = _Search(observed, partition, settings), []
    for biased in _bias_candidates(settings.bias, search.has_validation):
        ends += yield from search.path(biased, start)
    for end in ends:
        if end.lowest <= MAX_PATH_RATIO * min(each.lowest for each in ends):
            yield from search.settle(end)
    yield from search.refit(observed)


@dataclass(frozen=True)
class _PathEnd:
    """The best step of a path, its error, and the stage that follows."""

    next_stage: str
    standardization: _Standardization
    step: Step
    lowest: float


class _Search:
    """Walks the solver's paths, without and with biases, and keeps the step with the lowest held-out error."""

    def __init__(self, observed: Observed, partition: RowPartition, settings: FitSettings) -> None:
        self.began = time.perf_counter()
        self.partition, self.settings = partition, settings
        share, seed, offset = settings.validation_share, settings.seed, partition.offset
        self.training, self.validation = split(observed, share, seed, offset)
        self.has_validation = 0 < _count(self.validation, partition) < _count(observed, partition)
        if not self.has_validation:  # Chance may hold out none of few entries, or all.
            self.training, self.validation = split(observed, 0.0, seed, offset)
        self.best: tuple[Step, _Standardization, CompletedMatrix] | None = None
        self.lowest = math.inf

    def path(
        self, biased: bool, start: LowRank | None
    ) -> Generator[tuple[StepRecord, CompletedMatrix], None, list[_PathEnd]]:
        """The solver's path with biases, or without; no step if an earlier path is exact."""
        if self.exact:
            return []
        suffix = " with biases" if biased else ""
        biases = Biases.fit(self.training, self.partition) if biased else Biases.none(self.training)
        standardization = _Standardization.of(self.training, biases, self.partition)
        problem, solver = standardization.problem(self.training, self.settings.seed), self.settings.solver
        rank = self.settings.start_rank
        if start is None:
            scaled = problem.leading(rank)
        else:
            scaled = replace(start, s=start.s / standardization.scale).keep(rank)
        steps = solver.path(problem, scaled)
        step, lowest = yield from self.walk(steps, f"path{suffix}", standardization, solver.patience)
        return [] if step is None else [_PathEnd(f"posterior{suffix}", standardization, step, lowest)]

    def settle(self, end: _PathEnd) -> Iterator[tuple[StepRecord, CompletedMatrix]]:
        """The solver's further walks, for values that no path meets."""
        if not self.has_validation or self.exact:
            return
        problem = end.standardization.problem(self.training, self.settings.seed)
        start = problem.leading(self.settings.start_rank)
        for steps in self.settings.solver.settle(problem, start, end.step):
            yield from self.walk(steps, end.next_stage, end.standardization, POSTERIOR_PATIENCE)

    def walk(
        self, steps: Iterator[Step], stage: str, standardization: _Standardization, patience: int
    ) -> Generator[tuple[StepRecord, CompletedMatrix], None, tuple[Step | None, float]]:
        """Read steps until the error, held out if possible, stops falling; return the best step and its error."""
        waited, lowest, best = 0, math.inf, None
        for count, step in enumerate(steps, 1):
            errors = standardization.errors(step, self.validation)
            held_out = _rms(errors, self.partition) if self.has_validation else math.nan
            error = held_out if self.has_validation else step.error * standardization.scale
            waited = 0 if error < lowest * (1 - MIN_IMPROVEMENT) else waited + 1
            best = step if best is None or not waited else best
            lowest = min(error, lowest)
            if self.best is None or error < self.lowest * (1 - MIN_IMPROVEMENT):
                model = standardization.model(step, errors)
                self.best, self.lowest = (step, standardization, model), error
            yield self.record(step, stage, standardization, held_out), self.best[2]
            # Only after a descent, because at first the strongest penalty may raise the error above the start's.
            descended = self.has_validation and count - waited > MIN_DESCENT_STEPS
            hopeless = descended and error >= HOPELESS_RATIO * lowest
            stalled = waited >= (patience * HOPELESS_PATIENCE_SHARE if hopeless else patience)
            exact = error <= self.settings.tol * standardization.scale
            if exact or stalled or count >= self.settings.max_iter:
                break
        return best, lowest

    def refit(self, observed: Observed) -> Iterator[tuple[StepRecord, CompletedMatrix]]:
        """The best step, without its smallest directions, goes on with all entries."""
        if self.best is None:
            return
        step, standardization, model = self.best
        standardization = replace(standardization, column_shares=_column_shares(observed, self.partition))
        if self.has_validation and standardization.biases.shrink < math.inf:
            standardization = replace(standardization, biases=Biases.fit(observed, self.partition))
        problem, tol = standardization.problem(observed, self.settings.seed), self.settings.tol
        if self.has_validation:
            loss = max(MAX_TRUNCATION_SHARE * self.lowest / standardization.scale, tol)
            step = step.keep(step.factors.rank_within(loss * math.sqrt(problem.height * problem.width)))
        for last in self.settings.solver.refit(problem, step):
            record = self.record(last, "refit", standardization, math.nan)
            yield record, standardization.model(last, model.held_out_errors)
            if last.error <= tol:
                break

    @property
    def exact(self) -> bool:
        """Whether the best step meets the values up to the tolerance."""
        return self.best is not None and self.lowest <= self.settings.tol * self.best[1].scale

    def record(
        self, step: Step, stage: str, standardization: _Standardization, held_out: float
    ) -> StepRecord:
        seconds, error = time.perf_counter() - self.began, step.error * standardization.scale
        return StepRecord(stage, step.penalty, step.objective, error, held_out, step.factors.rank, seconds)


def _bias_candidates(bias: bool | Literal["auto"], has_validation: bool) -> tuple[bool, ...]:
    """Whether to fit biases, in turn; held-out entries are needed to choose between both."""
    if bias != "auto":
        return (bool(bias),)
    return (False, True) if has_validation else (False,)


def _column_shares(observed: Observed, partition: RowPartition) -> Float[Tensor, " width"]:
    """The share of all rows in which each column is observed."""
    counts = partition.sum(observed.column_starts.diff().to(observed.values))
    return counts / partition.sum(counts.new_tensor(float(observed.shape[0])))


def _count(observed: Observed, partition: RowPartition) -> int:
    return round(float(partition.sum(observed.values.new_tensor(float(len(observed))))))


def _rms(values: Tensor, partition: RowPartition) -> float:
    total = partition.sum(torch.stack([values.square().sum(), values.new_tensor(float(len(values)))]))
    return float((total[0] / total[1]).sqrt())
