"""Walks over a solver's steps on one split of the entries, and the best step of each by its held-out error."""

from __future__ import annotations

import math
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.blend import Blend
from corefold.completion.calibration import Calibration
from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed
from corefold.completion.settings import FitSettings
from corefold.completion.solvers import covariance
from corefold.completion.solvers.protocol import CompletionProblem, Step
from corefold.completion.standardization import COLUMNS, Form, Standardization, rms
from corefold.completion.units import ColumnSpread, in_units, score_errors

MIN_IMPROVEMENT = 1e-3  # share by which a held-out error must fall to count as better
# A walk that has improved for some steps, and whose error then rises to this ratio of its best, gets less patience.
HOPELESS_RATIO, HOPELESS_PATIENCE_SHARE, MIN_DESCENT_STEPS = 1.2, 1 / 3, 5
BEHIND_RATIO, CATCHING_UP_RATIO = 1.5, 0.98
POSTERIOR_PATIENCE = 5  # steps without a better error that end a walk of posterior means

COVARIANCE_PATIENCE = 3

BIASES, PATH, POSTERIOR, COVARIANCE = "biases", "path", "posterior", "covariance"


@dataclass(frozen=True)
class StepRecord:
    """One step of a fit.

    Attributes:
        stage: "biases" for mean, row and column biases alone, "path" while the penalty falls, "posterior" in a walk of
            posterior means and "posterior 1" in the next, "covariance" for that of the columns, any of these "with
            biases" beside it or "with biases and features", and "refit" when the held-out entries take part.
        units: "table" if all columns are fitted in one unit, "columns" or "residuals" where each has its own, "roots",
            "normal scores".
        fold: which part of the entries is held out.
        penalty: weight of the regulariser, for values scaled to a root mean square of 1; of posterior means the
            variance of the noise.
        objective: the solver's objective at this penalty, for the same values; of posterior means the free energy.
        error: root mean square error at the fitted entries, in the solver's units.
        held_out: the same at the held-out entries, in units of the data; nan without any, and in the refit.
        relative: that of the held-out errors over their columns' standard deviations, which chooses.
        rank: rank of the low-rank part.
        seconds: since the fit began.
    """

    stage: str
    units: str
    fold: int
    penalty: float
    objective: float
    error: float
    held_out: float
    relative: float
    rank: int
    seconds: float


@dataclass(frozen=True)
class Walk:
    """What a walk is called, and how values are prepared for it.

    Attributes:
        form: of the values.
        stage: "biases", "path", "posterior" or "covariance".
        number: of the posterior walks of a form.
    """

    form: Form
    stage: str
    number: int = 0

    @property
    def name(self) -> str:
        which = f"{self.stage} {self.number}" if self.number else self.stage
        form = self.form
        with_these = ["biases"] * (form.biased and self.stage != BIASES) + ["features"] * form.featured
        return f"{which} with {' and '.join(with_these)}" if with_these else which


@dataclass(frozen=True)
class End:
    """The best step of a walk.

    Attributes:
        walk: the walk.
        standardization: of its values.
        step: the step.
        errors: at the held-out entries, in units of the data.
        score: the error that chooses.
    """

    walk: Walk
    standardization: Standardization
    step: Step
    errors: Float[Tensor, " held_out"]
    score: float


Found = Iterator[tuple[StepRecord, Blend]]


class Split:
    """Training and held-out entries, and the walks over them.

    Attributes:
        training: the entries that solvers see.
        held_out: the others.
        ends: of all walks so far.
        best: of these the one with the lowest error.
    """

    def __init__(
        self,
        parts: tuple[Observed, Observed],
        spread: ColumnSpread,
        settings: FitSettings,
        partition: RowPartition,
        fold: int = 0,
    ) -> None:
        self.began = time.perf_counter()
        self.training, self.held_out = parts
        self.spread, self.settings, self.partition, self.fold = spread, settings, partition, fold
        counts = torch.tensor([len(part) for part in parts] + [parts[0].shape[0]])
        self.trained, self.judged, self.height = partition.sum(counts.to(spread.mean.device)).tolist()
        absolute = spread.absolute(settings.error)
        unit = torch.full_like(spread.deviation, spread.common) if absolute else spread.deviation
        weights = torch.where(unit > 0, 1 / unit, 1.0)
        self.weights = weights.to(self.held_out.values)[self.held_out.columns]
        # Units are those of the training entries: a mean that had seen the held-out ones would look better than it is.
        self.spreads = {COLUMNS: ColumnSpread.of(self.training, partition)}
        self.ends: dict[Walk, End] = {}
        self.best: End | None = None
        self.model: Blend | None = None
        self._standardizations: dict[Form, Standardization] = {}

    def scores(self, form: Form, observed: Observed) -> Observed:
        """The entries in a form's units."""
        return in_units(observed, self.standardization(form).units)

    def biases(self, form: Form) -> Found:
        """Mean, row and column biases alone."""
        standardization = self.standardization(form)
        problem = standardization.problem(self.training, self.settings.seed)
        yield from self._read(iter([_no_directions(problem)]), Walk(form, BIASES), standardization, 1)

    def path(self, form: Form, start: LowRank | None = None) -> Found:
        """The solver's path, from `start` or from the values' leading part."""
        standardization, rank = self.standardization(form), self.settings.start_rank
        problem, solver = standardization.problem(self.training, self.settings.seed), self.settings.solver
        start = problem.leading(rank) if start is None else standardization.start(start, rank)
        steps = solver.path(problem, start)
        yield from self._read(steps, Walk(form, PATH), standardization, solver.patience)

    def posteriors(self, form: Form, numbers: Container[int] | None = None) -> Found:
        """The solver's further walks, for values that no path meets; of these numbers, or all."""
        standardization = self.standardization(form)
        problem = standardization.problem(self.training, self.settings.seed)
        path = self.ends.get(Walk(form, PATH))
        start = problem.leading(self.settings.posterior_rank)
        walks = self.settings.solver.settle(problem, start, None if path is None else path.step)
        for number, steps in enumerate(walks):
            if self.exact:
                return
            if numbers is None or number in numbers:
                walk = Walk(form, POSTERIOR, number)
                yield from self._read(steps, walk, standardization, POSTERIOR_PATIENCE)

    def covariance(self, form: Form, near: float | None = None) -> Found:
        """A covariance of columns, for narrow matrices; of strengths next to one, or of all."""
        standardization = self.standardization(form)
        problem = standardization.problem(self.training, self.settings.seed)
        if covariance.affordable(problem, self.settings.max_rank):
            steps = covariance.path(problem, near)
            yield from self._read(steps, Walk(form, COVARIANCE), standardization, COVARIANCE_PATIENCE)

    def cold_errors(self, form: Form) -> tuple[Tensor, Tensor]:
        """Errors at the held-out entries, predicted without their rows, and without their columns, from features."""
        held_out, standardization = self.held_out, self.standardization(form)
        places = held_out.row_of(), held_out.columns
        without_row, without_column = (
            held_out.values - standardization.units.backward(predict(*places), held_out.columns)
            for predict in (standardization.cold.without_row, standardization.cold.without_column)
        )
        return without_row, without_column

    def standardization(self, form: Form) -> Standardization:
        if form not in self._standardizations:
            self._standardizations[form] = Standardization.of(
                form,
                self.training,
                self.spreads.get(form.units, self.spreads[COLUMNS]),
                self.partition,
                self.settings.features,
            )
        return self._standardizations[form]

    def _read(
        self, steps: Iterator[Step], walk: Walk, standardization: Standardization, patience: int
    ) -> Found:
        waited, lowest, before, end = 0, math.inf, math.inf, None
        scores = self.scores(walk.form, self.held_out)
        for count, step in enumerate(steps, 1):
            errors = standardization.errors(step, self.held_out, scores)
            score = self.score(errors) if self.judged else step.error * standardization.scale
            waited = 0 if score < lowest * (1 - MIN_IMPROVEMENT) else waited + 1
            if end is None or not waited:
                end = End(walk, standardization, step, errors, score)
            lowest = min(score, lowest)
            if self.model is None or self.best is None or score < self.best.score * (1 - MIN_IMPROVEMENT):
                self.best, member = end, standardization.model(step, self.training)
                columns = self.held_out.columns
                missed = score_errors(member.units, self.held_out.values, errors, columns)
                calibration = Calibration.of(errors, columns, len(self.spread.mean), missed)
                self.model = Blend((member,), (1.0,), calibration)
            yield self.record(walk, step, standardization, errors if self.judged else None), self.model
            # Only after a descent, because at first the strongest penalty may raise the error above the start's.
            descended = bool(self.judged) and count - waited > MIN_DESCENT_STEPS
            hopeless = descended and score >= HOPELESS_RATIO * lowest
            stalled = waited >= (patience * HOPELESS_PATIENCE_SHARE if hopeless else patience)
            if walk.stage == POSTERIOR and count > MIN_DESCENT_STEPS:
                # Far behind another walk, and not on its way to it.
                stalled |= score > max(BEHIND_RATIO * self.best.score, CATCHING_UP_RATIO * before)
            before = score
            if self.meets(score, standardization) or stalled or count >= self.settings.max_iter:
                break
        if end is not None:
            self.ends[walk] = end

    def meets(self, score: float, standardization: Standardization) -> bool:
        """Whether an error is within the tolerance."""
        return score <= self.settings.tol * (1.0 if self.judged else standardization.deviation)

    @property
    def best_model(self) -> Blend:
        """The model of the best step so far.

        Raises:
            RuntimeError: before the first step.
        """
        if self.model is None:
            raise RuntimeError("no step was made")
        return self.model

    @property
    def exact(self) -> bool:
        """Whether the best step meets the values up to the tolerance."""
        return self.best is not None and self.meets(self.best.score, self.best.standardization)

    def score(self, values_errors: Tensor) -> float:
        """The error that chooses: of held-out values, over their columns' standard deviations."""
        return rms(values_errors * self.weights, self.partition)

    def record(
        self, walk: Walk, step: Step, standardization: Standardization, errors: Tensor | None
    ) -> StepRecord:
        """What the estimator's path says of a step."""
        return StepRecord(
            walk.name,
            walk.form.units,
            self.fold,
            step.penalty,
            step.objective,
            step.error * standardization.scale,
            math.nan if errors is None else rms(errors, self.partition),
            math.nan if errors is None else self.score(errors),
            step.factors.rank,
            time.perf_counter() - self.began,
        )


def _no_directions(problem: CompletionProblem) -> Step:
    values = problem.observed.values
    u, v = (values.new_zeros(side, 0) for side in problem.observed.shape)
    return problem.step(LowRank(u, values.new_zeros(0), v))
