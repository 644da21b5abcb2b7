"""What a method of completion.py is given, and what it answers.

Who has settings chooses among ten tries or fewer by the error at entries held out of those seen, the same share and
the same entries that DeepMatrixCompletion holds out, and fits all of them at the end; its seconds include that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from completion_data import Case
from sklearn.utils import check_random_state

from corefold.completion.entries import observed_entries, triples
from corefold.completion.observed import Observed
from corefold.completion.split import split

HELD_SHARE = 0.05  # as DeepMatrixCompletion has it
Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Absent(Exception):  # noqa: N818 - no error
    """A peer does not take part; the reason."""


class Task:
    """A case as peers see it: entries to tune on, entries to choose by, and all of them."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case, self.seed = case, seed
        self.observed = observed_entries(triples(case.seen, case.shape))
        drawn = int(check_random_state(seed).randint(2**31))  # as the estimator draws it
        self.fitted, self.held = split(self.observed, HELD_SHARE, drawn)
        values = case.seen[2]
        ends = float(values.min()), float(values.max())
        repeated = all(np.count_nonzero(values == end) > 1 for end in ends)
        self.bounds = ends if repeated else (-math.inf, math.inf)

    def clipped(self, predicted: np.ndarray) -> np.ndarray:
        """Within the ends of a scale on which values repeat, the rule of DeepMatrixCompletion, for all alike."""
        return np.clip(predicted, *self.bounds)

    def judge(self, predict: Predict) -> np.ndarray:
        return self.clipped(predict(*self.case.judged[:2]))

    def held_error(self, predict: Predict) -> float:
        rows, columns, values = arrays(self.held)
        return float(np.sqrt(np.mean((self.clipped(predict(rows, columns)) - values) ** 2)))


@dataclass(frozen=True)
class Answer:
    """Predictions at the judged entries, the tries before, and what else a method can say."""

    predicted: np.ndarray
    tries: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)


def arrays(observed: Observed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return observed.row_of().numpy(), observed.columns.numpy(), observed.values.numpy()


def tuned(
    task: Task, fit: Callable[[Observed, dict[str, Any]], Predict], settings: Sequence[dict[str, Any]]
) -> Answer:
    """The best of these settings on the entries held out, fitted to all."""
    tries = []
    for setting in settings:
        tries.append({**setting, "held_out": task.held_error(fit(task.fitted, setting))})
    chosen = min(range(len(tries)), key=lambda i: tries[i]["held_out"])
    predict = fit(task.observed, settings[chosen])
    return Answer(task.judge(predict), tries, {"chosen": settings[chosen]})
