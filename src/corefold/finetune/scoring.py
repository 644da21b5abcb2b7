"""What rows that judge say about a model: scores, their intervals, and a report of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corefold.finetune.encoding import IGNORED
from corefold.finetune.evaluation.intervals import Intervals
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import kind_of


@dataclass(frozen=True)
class Outputs:
    """The outputs that a kind of task keeps, beside the labels of the same rows, and their scores with the loss."""

    kept: np.ndarray
    labels: np.ndarray
    scores: dict[str, float]


@dataclass(frozen=True)
class Judgement:
    """Scores of some rows.

    Attributes:
        rows: the number of rows.
        scores: by name.
        intervals: of the scores, None where there is none.
        report: for kinds with classes, as `TaskKind.report` makes it.
    """

    rows: int
    scores: dict[str, float]
    intervals: Intervals
    report: dict[str, Any]


def judge(task: Task, outputs: Outputs, seed: int) -> Judgement:
    """Scores, intervals and report of outputs; `seed` draws the resamples."""
    kind, kept, labels = kind_of(task), outputs.kept, outputs.labels
    return Judgement(
        len(labels), outputs.scores, kind.intervals(task, kept, labels, seed), kind.report(task, kept, labels)
    )


def stacked(parts: Sequence[np.ndarray], filling: int = 0) -> np.ndarray:
    """Batches below each other; where rows have tokens, all as wide as the widest."""
    if parts[0].ndim < 2:
        return np.concatenate(parts)
    widest = max(part.shape[1] for part in parts)
    around = [(0, 0)] * (parts[0].ndim - 2)
    return np.concatenate(
        [
            np.pad(part, [(0, 0), (0, widest - part.shape[1]), *around], constant_values=filling)
            for part in parts
        ]
    )


def stacked_labels(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Labels of batches below each other; a token beyond the end of a row is ignored."""
    return stacked(parts, IGNORED)
