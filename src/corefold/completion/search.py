"""A fit: entries are held out, a solver walks over the others in several units, and the best walks are blended.

With few entries, several folds are held out in turn: their errors together choose, and calibrate the intervals. At the
end the held-out entries take part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from corefold.completion.blend import Blend, blend_weights
from corefold.completion.calibration import Calibration
from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.model import CompletedMatrix
from corefold.completion.observed import Observed
from corefold.completion.settings import FitSettings
from corefold.completion.solvers import Schatten, covariance
from corefold.completion.solvers.covariance import CovarianceStep
from corefold.completion.split import folds
from corefold.completion.standardization import (
    COLUMNS,
    NORMAL_SCORES,
    RESIDUALS,
    ROOTS,
    TABLE,
    Form,
    Standardization,
)
from corefold.completion.units import ColumnSpread, RootUnits, column_sums, score_errors
from corefold.completion.walks import BIASES, COVARIANCE, PATH, POSTERIOR, End, Split, StepRecord, Walk

Records = Iterator[tuple[StepRecord, Blend]]

# The directions left out of the refit may add up to this share of the best error.
MAX_TRUNCATION_SHARE = 0.02
# Observed entries up to which other units than the table's and the columns' are tried.
MOST_FOR_ALL_UNITS = 1_000_000
# Columns have one unit if their deviations, but for the outer tenths, differ by less; a larger ratio where a path takes
# minutes.
ALIKE_RATIO, LARGE_ALIKE_RATIO = 1.3, 5.0
# Residuals' deviations are drawn towards one of all columns, as if each column had so many more of them.
PRIOR_RESIDUALS, MAX_RESIDUAL_RATIO = 10.0, 4.0
# The walks that are near enough to the best one to be compared by all folds.
CONTENDER_RATIO, MAX_CONTENDERS = 1.15, 4
# A blend has members of at least this weight, and gains at least this share of the error.
MIN_WEIGHT, MIN_BLEND_GAIN = 0.1, 0.005
MOST_FOR_A_BLEND = 2**22  # numbers in the factors of each member


def fit(
    observed: Observed, partition: RowPartition, settings: FitSettings, start: LowRank | None = None
) -> Records:
    """Each step with the best model so far; the last one is the result."""
    search = _Search(observed, partition, settings)
    yield from search.explore(start)
    contenders = search.contenders()
    if search.first.exact:  # An exact answer needs no comparison.
        search.splits = search.splits[:1]
    for split in search.splits[1:]:
        yield from search.repeat(split, contenders)
    yield from search.refit(search.weighted(contenders))


class _Search:
    """The walks over all splits of the entries, and the choice among them."""

    def __init__(self, observed: Observed, partition: RowPartition, settings: FitSettings) -> None:
        self.observed, self.partition, self.settings = observed, partition, settings
        self.spread = ColumnSpread.of(observed, partition)
        self.splits = [
            Split(parts, self.spread, settings, partition, fold)
            for fold, parts in enumerate(folds(observed, settings, partition))
        ]
        self.first = self.splits[0]
        self.entries = self.first.judged + self.first.trained
        self.residual_ratios = torch.ones_like(self.spread.deviation)

    @property
    def alike(self) -> bool:
        """Whether the columns' own units would differ too little from the table's to be worth a path."""
        return self.spread.ratio <= (ALIKE_RATIO if self.entries <= MOST_FOR_ALL_UNITS else LARGE_ALIKE_RATIO)

    def explore(self, start: LowRank | None) -> Records:
        """All walks over the first split; values that one of them meets need no other."""
        first, bias, several = self.first, self.settings.bias, self.settings.candidates == "all"
        nulls = isinstance(self.settings.solver, Schatten)  # The rank of other solvers is the user's.
        choices = [(False,), (True,)] if bias == "auto" and first.judged else [(bias is True,)]
        if self.settings.features is not None and bias is not False:
            choices = [*choices, (True, True)] if first.judged else [(True, True)]
        forms = [Form(TABLE, *choice) for choice in choices]
        if first.judged and several and not self.alike:
            forms += [Form(COLUMNS, *choice) for choice in choices]
        for form in forms:
            if first.judged and nulls and (form.biased or form.units == COLUMNS) and not first.exact:
                yield from first.biases(form)
            if not first.exact:
                yield from first.path(form, start if form.units == TABLE else None)
        if not first.judged or first.exact:
            return
        others = [Form(units, *choice) for units in self.other_units() for choice in choices]
        for form in [*forms, *others]:
            yield from first.posteriors(form)
            if several and (form == Form(COLUMNS, False) or form == Form(TABLE, True)):
                yield from first.covariance(form)
        linear = [end for walk, end in first.ends.items() if walk.form.units in (TABLE, COLUMNS)]
        if RESIDUALS in self.other_units(RESIDUALS) and not first.exact:
            best = min(linear, key=lambda end: end.score)
            self.residual_ratios = self.ratios_of(best)
            for split in self.splits:
                split.spreads[RESIDUALS] = split.spreads[COLUMNS].times(self.residual_ratios)
            yield from first.posteriors(replace(best.walk.form, units=RESIDUALS))

    def other_units(self, *last: str) -> list[str]:
        """Units in which no path is walked; those of normal scores need all rows in one process."""
        if self.entries > MOST_FOR_ALL_UNITS or not self.spread.common or self.settings.candidates != "all":
            return []
        normal = [NORMAL_SCORES] if self.partition.process_count == 1 else []
        roots = [ROOTS] if RootUnits.may_help(self.observed, self.partition) else []
        return [*normal, *roots, *last]

    def ratios_of(self, end: End) -> Tensor:
        """By how much the columns' deviations are to change for the residuals of a walk to be alike in all of them."""
        training, spread = self.first.training, self.first.spreads[COLUMNS]
        residual = end.standardization.errors(end.step, training, self.first.scores(end.walk.form, training))
        relative = (residual / spread.deviation.to(residual)[training.columns]).square()
        counts = self.partition.sum(training.column_starts.diff().to(residual))
        squares = self.partition.sum(column_sums(training, relative.index_select(0, training.order)))
        mean = squares.sum() / counts.sum()
        ratios = ((squares / mean + PRIOR_RESIDUALS) / (counts + PRIOR_RESIDUALS)).sqrt()
        return ratios.clamp(1 / MAX_RESIDUAL_RATIO, MAX_RESIDUAL_RATIO).nan_to_num(1.0).double()

    def contenders(self) -> list[Walk]:
        """The walks that the other folds are to compare, the best one first."""
        ends = sorted(self.first.ends.values(), key=lambda end: end.score)
        if self.first.exact or not self.first.judged:
            return [end.walk for end in ends[:1]]
        return [end.walk for end in ends if end.score <= CONTENDER_RATIO * ends[0].score][:MAX_CONTENDERS]

    def repeat(self, split: Split, walks: list[Walk]) -> Records:
        """The same walks over another split."""
        for form in dict.fromkeys(walk.form for walk in walks):
            numbers = [walk.number for walk in walks if walk.form == form and walk.stage == POSTERIOR]
            stages = {walk.stage for walk in walks if walk.form == form}
            if BIASES in stages:
                yield from self.besides(split.biases(form))
            if PATH in stages or (0 in numbers and Walk(form, PATH) in self.first.ends):
                yield from self.besides(split.path(form))
            if COVARIANCE in stages:
                near = self.first.ends[Walk(form, COVARIANCE)].step.penalty
                yield from self.besides(split.covariance(form, near))
            if numbers:
                yield from self.besides(split.posteriors(form, numbers))

    def besides(self, records: Records) -> Records:
        """The records of another split, with the model of the first one."""
        for record, _ in records:
            yield record, self.first.best_model

    def weighted(self, walks: list[Walk]) -> list[tuple[float, Walk]]:
        """The walks to blend and their weights, by their errors in all folds; the largest weight first."""
        walks = [walk for walk in walks if all(walk in split.ends for split in self.splits)]
        if len(walks) < 2:
            return [(1.0, walk) for walk in walks]
        errors = torch.stack([self.errors(walk, weighted=True) for walk in walks]).double()
        gram = self.partition.sum(errors @ errors.mT).cpu()
        weights = blend_weights(gram)
        numbers = self.settings.start_rank * (self.first.height + self.observed.shape[1])
        weights = torch.where(weights >= MIN_WEIGHT, weights, 0.0)
        weights /= weights.sum()
        alone = float(gram.diagonal().amin())
        gain = 1 - math.sqrt(float(weights @ gram @ weights) / alone) if alone > 0 else 0.0
        if gain < MIN_BLEND_GAIN or self.settings.candidates != "all" or numbers > MOST_FOR_A_BLEND:
            return [(1.0, walks[int(gram.diagonal().argmin())])]
        return sorted(
            ((weight, walk) for weight, walk in zip(weights.tolist(), walks, strict=True) if weight),
            key=lambda each: -each[0],
        )

    def errors(self, walk: Walk, *, weighted: bool = False) -> Tensor:
        """A walk's errors in all folds; weighted, as they choose."""
        return torch.cat(
            [
                split.ends[walk].errors * (split.weights if weighted else 1.0)
                for split in self.splits
                if walk in split.ends
            ]
        )

    def refit(self, chosen: list[tuple[float, Walk]]) -> Records:
        """The steps of the chosen walks, without their smallest directions, go on with all entries."""
        if not chosen:
            return
        splits = [split for split in self.splits if chosen[0][1] in split.ends]
        columns, values = (
            torch.cat([getattr(split.held_out, name) for split in splits]) for name in ("columns", "values")
        )
        errors = sum((weight * self.errors(walk) for weight, walk in chosen), torch.zeros(()))
        calibration = Calibration.of(errors, columns, self.observed.shape[1])
        if self.settings.features is not None and self.first.judged:
            cold = zip(*(split.cold_errors(chosen[0][1].form) for split in splits), strict=True)
            row, column = (torch.cat(errors) for errors in cold)
            calibration = replace(calibration, featured_row=row, featured_column=column)
        weights = tuple(weight for weight, _ in chosen)
        members: dict[Walk, CompletedMatrix] = {}
        for _, walk in reversed(chosen):  # the main one last, so that the path ends with its steps
            for record, member in self.refitted(self.first.ends[walk]):
                members[walk] = member
                if len(members) < len(chosen):
                    yield record, self.first.best_model
                else:
                    blended = tuple(members[each] for _, each in chosen)
                    scores = score_errors(blended[0].units, values, errors, columns)
                    yield record, Blend(blended, weights, replace(calibration, scores=scores.abs()))

    def refitted(self, end: End) -> Iterator[tuple[StepRecord, CompletedMatrix]]:
        """A step goes on with all entries."""
        settings, step, standardization = self.settings, end.step, end.standardization
        if (
            self.first.judged and not self.first.exact
        ):  # Other biases than the exact ones would be a step back.
            form = end.walk.form
            spread = self.spread.times(self.residual_ratios) if form.units == RESIDUALS else self.spread
            standardization = Standardization.of(
                form, self.observed, spread, self.partition, settings.features
            )
            step = step.scaled(end.standardization.scale / standardization.scale)
        problem = standardization.problem(self.observed, settings.seed)
        if self.first.judged and step.factors.rank:
            loss = max(MAX_TRUNCATION_SHARE * step.error, settings.tol)
            step = step.keep(step.factors.rank_within(loss * math.sqrt(problem.height * problem.width)))
        if isinstance(step, CovarianceStep):
            steps = covariance.refit(problem, step)
        else:
            steps = settings.solver.refit(problem, step) if step.factors.rank else iter([step])
        for last in steps:
            record = self.first.record(end.walk, last, standardization, None)
            yield (
                replace(record, stage="refit"),
                standardization.model(last, self.observed, self.first.exact or not self.first.judged),
            )
            if last.error <= settings.tol:
                break
