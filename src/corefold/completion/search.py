"""A fit: entries are held out, solvers walk over the others, the best walk is chosen and refitted to all entries."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.model import CompletedMatrix
from corefold.completion.observed import Observed
from corefold.completion.settings import FitSettings
from corefold.completion.split import folds
from corefold.completion.standardization import COLUMNS, NORMAL_SCORES, POWERS, RESIDUALS, TABLE, Form
from corefold.completion.units import ColumnSpread, PowerUnits, column_sums
from corefold.completion.walks import BIASES, PATH, POSTERIOR, End, Split, StepRecord, Walk

Records = Iterator[tuple[StepRecord, CompletedMatrix]]

# The directions left out of the refit may add up to this share of the best error.
KAPPA = 10.0
MAX_TRUNCATION_SHARE = 0.02
CONTENDER_RATIO, MAX_CONTENDERS = 1.1, 4


def fit(
    observed: Observed, partition: RowPartition, settings: FitSettings, start: LowRank | None = None
) -> Records:
    """Each step with the best model so far; the last one is the result."""
    search = _Search(observed, partition, settings)
    yield from search.explore(start)
    yield from search.compare()
    yield from search.refit()


class _Search:
    def __init__(self, observed: Observed, partition: RowPartition, settings: FitSettings) -> None:
        self.observed, self.partition, self.settings = observed, partition, settings
        self.spread = ColumnSpread.of(observed, partition)
        parts = folds(observed, settings, partition)
        self.splits = [
            Split(part, self.spread, settings, partition, fold) for fold, part in enumerate(parts)
        ]
        self.first = self.splits[0]
        self.chosen: End | None = None

    def forms(self) -> list[Form]:
        bias = self.settings.bias
        biased = (False, True) if bias == "auto" and self.first.judged else (bool(bias) and bias != "auto",)
        units = [TABLE]
        if self.first.judged and not self.spread.alike:
            units.append(COLUMNS)
        return [Form(unit, each) for unit in units for each in biased]

    def explore(self, start: LowRank | None) -> Records:
        first = self.first
        for form in self.forms():
            if first.exact:
                return
            if (form.biased or form.units != TABLE) and first.judged:
                yield from first.biases(form)
            yield from first.path(form, start)
        if not first.judged:
            return
        forms = self.forms()
        if self.partition.process_count == 1:
            forms += [Form(NORMAL_SCORES, each) for each in sorted({form.biased for form in forms})]
        for name, power in POWERS.items():
            if PowerUnits.of(self.observed, self.partition, power) is not None:
                forms += [Form(name, each) for each in sorted({form.biased for form in forms})]
        for form in forms:
            yield from first.posteriors(form)
        if first.exact or os.environ.get("NORES"):
            return
        ends = [end for end in first.ends.values() if end.walk.form.units in (TABLE, COLUMNS)]
        end = min(ends, key=lambda end: end.score)
        spread = self.residual_spread(end)
        for split in self.splits:
            split.spreads[RESIDUALS] = spread
        yield from first.posteriors(Form(RESIDUALS, end.walk.form.biased))

    def residual_spread(self, end):
        training = self.first.training
        residual = end.standardization.values_errors(end.standardization.errors(end.step, training), training)
        relative = residual / self.spread.deviation[training.columns]
        counts = training.column_starts.diff().to(residual)
        squares = column_sums(training, relative.square().index_select(0, training.order))
        mean = squares.sum() / counts.sum()
        share = ((squares + KAPPA * mean) / (counts + KAPPA) / mean).sqrt().clamp(0.25, 4)
        return replace(self.spread, deviation=self.spread.deviation * share)

    def compare(self) -> Records:
        """Choose by all folds among the walks that the first one leaves in question."""
        self.chosen = self.first.best
        if self.chosen is None or len(self.splits) == 1 or self.first.exact:
            return
        ends = sorted(self.first.ends.values(), key=lambda end: end.score)
        contenders = [end.walk for end in ends if end.score <= CONTENDER_RATIO * ends[0].score]
        contenders = contenders[:MAX_CONTENDERS]
        for split in self.splits[1:]:
            for form in dict.fromkeys(walk.form for walk in contenders):
                stages = {walk.stage: walk for walk in contenders if walk.form == form}
                numbers = [walk.number for walk in contenders if walk.form == form and walk.stage == POSTERIOR]
                if BIASES in stages:
                    yield from self._kept(split.biases(form))
                if PATH in stages or (0 in numbers and Walk(form, PATH) in self.first.ends):
                    yield from self._kept(split.path(form))
                if numbers:
                    yield from self._kept(split.posteriors(form, numbers))
        scores = {walk: self._pooled(walk) for walk in contenders}
        self.chosen = self.first.ends[min(scores, key=lambda walk: scores[walk])]

    def _kept(self, records: Records) -> Records:
        for record, _ in records:
            yield record, self.first.model

    def _pooled(self, walk: Walk) -> float:
        ends = [(split.ends[walk].score, split.judged) for split in self.splits if walk in split.ends]
        return math.sqrt(sum(score**2 * count for score, count in ends) / sum(count for _, count in ends))

    def refit(self) -> Records:
        """The chosen step, without its smallest directions, goes on with all entries."""
        end, settings = self.chosen, self.settings
        if end is None:
            return
        errors, columns = end.errors, self.first.held_out.columns
        others = [split for split in self.splits[1:] if end.walk in split.ends]
        errors = torch.cat([errors, *(split.ends[end.walk].errors for split in others)])
        columns = torch.cat([columns, *(split.held_out.columns for split in others)])
        standardization = end.standardization
        step = end.step
        if self.first.judged:
            whole = type(standardization).of(end.walk.form, self.observed, self.first.spreads.get(end.walk.form.units, self.spread), self.partition)
            ratio = standardization.scale / whole.scale
            step = step.scaled(ratio)
            standardization = whole
        problem = standardization.problem(self.observed, settings.seed)
        if self.first.judged and step.factors.rank:
            unit_error = float(end.errors.square().mean().sqrt()) / standardization.scale
            loss = max(MAX_TRUNCATION_SHARE * unit_error, settings.tol)
            step = step.keep(step.factors.rank_within(loss * math.sqrt(problem.height * problem.width)))
        model = standardization.model(step, self.observed, errors, columns)
        refit = [step] if not step.factors.rank else settings.solver.refit(problem, step)
        walk = replace(end.walk, stage="refit")
        for last in refit:
            model = standardization.model(last, self.observed, errors, columns)
            record = self.first.record(walk, last, standardization, errors[:0], math.nan)
            yield replace(record, stage="refit"), model
            if last.error <= settings.tol:
                break
