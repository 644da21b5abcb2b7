"""Ours with its defaults, models without interactions, and peers as a careful user runs them.

Every peer of `benchmarks.completion` that chooses among settings does so here by the measure that the table is judged
by, and chooses whether each column is first divided by its standard deviation, too, where that could change its answer:
columns of several units for the imputers, all tables for softImpute and cmfrec. gcimpute ranks values, so units do not
matter to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.completion.other_packages import cmfrec, gcimpute, iterative, knn, myfm
from benchmarks.completion.planted import Predict
from benchmarks.completion.soft_impute import soft_impute
from benchmarks.completion.task import Answer, CompletionTask, arrays
from benchmarks.completion.wide.cases import WideCase
from corefold.completion import DeepMatrixCompletion
from corefold.completion.observed import Observed

NOMINAL = 0.9
MOST_HELD, FEWEST_HELD, WANTED_HELD = 0.25, 0.05, 200  # shares of the seen entries, and a number
TUNING_SECONDS = (
    5.0  # of the processor, in which a peer tries settings; it finishes the one at which they end
)
SHRINKAGES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 100.0)
SWEEPS = 20


class WideTask(CompletionTask):
    """A table as peers see it, who choose by the error that the table is judged by."""

    case: WideCase

    def __init__(self, case: WideCase, seed: int) -> None:
        count = len(case.seen[2])
        super().__init__(case, seed, min(max(WANTED_HELD / count, FEWEST_HELD), MOST_HELD))
        self.seconds = TUNING_SECONDS

    def held_error(self, predict: Predict) -> float:
        rows, columns, values = arrays(self.held)
        return self.case.error_of(self.clipped(predict(rows, columns)), columns, values)

    def tuned(
        self, fit: Callable[[Observed, dict[str, Any]], Predict], settings: Iterable[dict[str, Any]]
    ) -> Answer:
        """The best of the settings that can be tried in time."""
        return super().tuned(fit, _in_time(settings, self.seconds))

    def means(self) -> np.ndarray:
        """Of the seen entries of each column; of all where a column has none."""
        _, columns, values = self.case.seen
        width = self.case.shape[1]
        counts = np.bincount(columns, minlength=width)
        sums = np.bincount(columns, weights=values, minlength=width)
        return np.where(counts > 0, sums / np.maximum(counts, 1), values.mean())


class ScaledTask(WideTask):
    """The same with each column less its mean, over its standard deviation; errors are those of the table itself."""

    def __init__(self, original: WideTask) -> None:
        self.original, self.mean = original, original.means()
        rows, columns, values = original.case.seen
        values = (values - self.mean[columns]) / original.case.spread[columns]
        super().__init__(replace(original.case, seen=(rows, columns, values)), original.seed)

    def held_error(self, predict: Predict) -> float:
        return self.original.held_error(self.unscaled(predict))

    def judge(self, predict: Predict) -> np.ndarray:
        return self.original.judge(self.unscaled(predict))

    def unscaled(self, predict: Predict) -> Predict:
        spread = self.case.spread
        return lambda rows, columns: self.mean[columns] + spread[columns] * predict(rows, columns)


def _in_time(settings: Iterable[dict[str, Any]], seconds: float) -> Iterator[dict[str, Any]]:
    began = time.process_time()
    for count, setting in enumerate(settings):
        if count and time.process_time() - began > seconds:
            return
        yield setting


def deep(task: CompletionTask) -> Answer:
    """The defaults, on the array with NaN that users have."""
    rows, columns, values = task.case.seen
    table = np.full(task.case.shape, np.nan)
    table[rows, columns] = values
    estimator = DeepMatrixCompletion(random_state=task.seed).fit(table)
    judged = task.case.judged[:2]
    facts = {
        "rank": estimator.rank_,
        "steps": estimator.n_iter_,
        "biases": estimator.model_.biases.fitted,
        **_choice(estimator),
        "held_out": float(estimator.validation_error_),
    }
    try:
        interval = estimator.intervals(*judged, NOMINAL)
    except ValueError as error:  # too few held-out entries
        interval, facts["no_intervals"] = None, str(error)
    return Answer(estimator.entries(*judged), facts=facts, interval=interval)


def _choice(estimator: DeepMatrixCompletion) -> dict[str, str]:
    """Units and the stage before the refit, or of the best step."""
    steps = [step for step in estimator.path_ if step["fold"] == 0 and np.isfinite(step["relative"])]
    units = estimator.path_[-1]["units"]
    steps = [step for step in steps if step["units"] == units] or estimator.path_
    return {"stage": min(steps, key=lambda step: step["relative"])["stage"], "units": units}


def grand_mean(task: CompletionTask) -> Answer:
    return Answer(np.full(len(task.case.judged[2]), task.case.seen[2].mean()))


def column_means(task: WideTask) -> Answer:
    return Answer(task.means()[task.case.judged[1]])


def biases(task: WideTask, shrinkages: tuple[float, ...] = (5.0,)) -> Answer:
    """Mean, row and column biases, each bias shrunken as if it had that many more entries without one."""

    def fit(entries: Observed, setting: dict[str, Any]) -> Predict:
        rows, columns, values = arrays(entries)
        mean, row, column = values.mean(), np.zeros(entries.shape[0]), np.zeros(entries.shape[1])
        for _ in range(SWEEPS):
            column = _shrunken(columns, values - mean - row[rows], len(column), setting["columns"])
            row = _shrunken(rows, values - mean - column[columns], len(row), setting["rows"])
        return lambda rows, columns: mean + row[rows] + column[columns]

    settings = [
        {"rows": of_rows, "columns": of_columns}
        for of_rows in shrinkages
        for of_columns in (shrinkages if len(shrinkages) == 1 else (0.0, 2.0, 10.0))
    ]
    return task.tuned(fit, settings)


def _shrunken(place: np.ndarray, residual: np.ndarray, length: int, shrinkage: float) -> np.ndarray:
    counts = np.bincount(place, minlength=length) + shrinkage
    return np.bincount(place, weights=residual, minlength=length) / np.maximum(counts, 1e-9)


def either(method: Callable[[Any], Answer], also_one_unit: bool = True) -> Callable[[WideTask], Answer]:
    """A method on the table as it is or on scaled columns, whichever is better on held-out entries."""

    def best(task: WideTask) -> Answer:
        if task.case.units == "one" and not also_one_unit:
            return method(task)
        answers = [method(one) for one in (task, ScaledTask(task))]
        errors = [min(one["held_out"] for one in answer.tries) for answer in answers]
        scaled = errors[1] < errors[0]
        return replace(answers[scaled], facts={**answers[scaled].facts, "scaled": scaled})

    return best


OURS = "deep"
NULLS: dict[str, Callable[[Any], Answer]] = {
    "grand_mean": grand_mean,
    "column_means": column_means,
    "biases": biases,
    "tuned_biases": either(lambda task: biases(task, SHRINKAGES)),
}
PEERS: dict[str, Callable[[Any], Answer]] = {
    "soft_impute": either(soft_impute),
    "knn": either(knn, also_one_unit=False),
    "iterative": either(iterative, also_one_unit=False),
    "cmfrec": either(cmfrec),
    "gcimpute": gcimpute,
    "myfm": myfm,
}
METHODS: dict[str, Callable[[Any], Answer]] = {OURS: deep, **NULLS, **PEERS}
