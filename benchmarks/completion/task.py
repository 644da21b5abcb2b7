"""The task of a method of `benchmarks.completion.run`, and its answer.

A method with settings chooses among at most ten tries, by the error at entries that are held out of the seen ones: the
same entries that DeepMatrixCompletion holds out. It fits all seen entries at the end. Its seconds include the tries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from benchmarks.completion.matrices import CompletionCase
from benchmarks.completion.planted import Predict
from corefold.completion.entries import observed_entries, triples
from corefold.completion.observed import Observed
from corefold.completion.split import split

HELD_OUT_SHARE = 0.05  # that of DeepMatrixCompletion


class Absent(Exception):  # noqa: N818 - no error
    """The reason why a peer does not take part."""


class CompletionTask:
    """A case as peers see it: entries to tune on, entries to choose by, and all of them."""

    def __init__(self, case: CompletionCase, seed: int, held_out_share: float = HELD_OUT_SHARE) -> None:
        self.case, self.seed = case, seed
        self.observed = observed_entries(triples(case.seen, case.shape))
        drawn = int(check_random_state(seed).randint(2**31))  # as the estimator draws it
        self.fitted, self.held = split(self.observed, held_out_share, drawn)
        values = case.seen[2]
        ends = float(values.min()), float(values.max())
        repeated = all(np.count_nonzero(values == end) > 1 for end in ends)
        self.bounds = ends if repeated else (-math.inf, math.inf)

    def clipped(self, predicted: np.ndarray) -> np.ndarray:
        """Predictions cut to the ends of the scale, if values repeat there: DeepMatrixCompletion's rule, for all."""
        return np.clip(predicted, *self.bounds)

    def judge(self, predict: Predict) -> np.ndarray:
        return self.clipped(predict(*self.case.judged[:2]))

    def held_error(self, predict: Predict) -> float:
        rows, columns, values = arrays(self.held)
        return float(np.sqrt(np.mean((self.clipped(predict(rows, columns)) - values) ** 2)))

    def tuned(
        self, fit: Callable[[Observed, dict[str, Any]], Predict], settings: Iterable[dict[str, Any]]
    ) -> Answer:
        """The setting that is best on the held-out entries, fitted to all entries."""
        tries: list[dict[str, Any]] = []
        chosen: dict[str, Any] = {}
        for setting in settings:
            error = self.held_error(fit(self.fitted, setting))
            if not tries or error < min(one["held_out"] for one in tries):
                chosen = setting
            tries.append({**setting, "held_out": error})
        predict = fit(self.observed, chosen)
        return Answer(self.judge(predict), tries, {"chosen": chosen})


@dataclass(frozen=True)
class Answer:
    """Predictions at the judged entries, the tries before the fit, further facts about the fit, and intervals."""

    predicted: np.ndarray
    tries: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    interval: tuple[np.ndarray, np.ndarray] | None = None


def arrays(observed: Observed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return observed.row_of().numpy(), observed.columns.numpy(), observed.values.numpy()
