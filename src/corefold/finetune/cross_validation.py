"""Cross-validation: every part of the training rows judges once a model that the others trained."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from corefold.finetune import folder
from corefold.finetune.config import RunConfig
from corefold.finetune.evaluation.splits import Split
from corefold.finetune.methods import METHODS
from corefold.finetune.processes import is_first, wait_for_all
from corefold.finetune.run_data import folds_of, prepare_data, take
from corefold.finetune.scoring import Judgement, Outputs, judge, stacked
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import kind_of
from corefold.finetune.trainer import prepare
from corefold.tables.atomic import write_json

RESULT, OUTPUTS = "result.json", "outputs.npz"


@dataclass(frozen=True)
class CrossValidation:
    """The folds of a run.

    Attributes:
        folds: for each fold its `rows`, and the scores `baseline`, `before` and `after`.
        judgement: the mean scores; intervals and report of all rows, each judged by the fold that left it out.
    """

    folds: Sequence[dict[str, Any]]
    judgement: Judgement

    def mean(self, part: str) -> dict[str, float]:
        """The mean over folds of the scores `baseline`, `before` or `after`."""
        return mean_scores([each[part] for each in self.folds])

    def metrics(self) -> dict[str, Any]:
        """The part of metrics.json."""
        return {
            "count": len(self.folds),
            "folds": list(self.folds),
            "mean": self.mean("after"),
            "intervals": self.judgement.intervals,
        }


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each score."""
    return {name: float(np.mean([each[name] for each in scores])) for name in scores[0]}


def cross_validate(
    config: RunConfig,
    task: Task,
    train: pd.DataFrame,
    out: Path,
    *,
    progress: bool,
    note: Callable[[str], None],
) -> CrossValidation:
    """Train and judge each fold; folds that an earlier part of the run finished are read.

    Args:
        config: the settings, nothing left open, so that every fold trains as the last model will.
        task: the task.
        train: the rows.
        out: the folder of the run; what the folds leave there is removed when the run ends.
        progress: show progress bars.
        note: called with a line for each fold.

    Raises:
        InputError: too few rows, or a loss that stops being finite.
    """
    splits = folds_of(config, task, train)
    for number, split in enumerate(splits, 1):
        place = fold_folder(out, number)
        if not (place / RESULT).exists():
            note(f"fold {number} of {len(splits)}: {len(split.train)} rows train, {len(split.judged)} judge")
            _run_fold(config, task, train, split, place, progress)
    results = [folder.read_json(fold_folder(out, number) / RESULT) for number in range(1, len(splits) + 1)]
    kept, labels = [], []
    for number in range(1, len(splits) + 1):
        with np.load(fold_folder(out, number) / OUTPUTS) as arrays:
            kept.append(arrays["kept"])
            labels.append(arrays["labels"])
    scores = mean_scores([each["after"] for each in results])
    together = Outputs(stacked(kept), stacked(labels), scores)
    # A text may be read in several windows, which are several outputs.
    rows = sum(each["rows"]["eval"] for each in results)
    return CrossValidation(results, replace(judge(task, together, config.seed), rows=rows))


def fold_folder(out: Path, number: int) -> Path:
    """The folder of a fold while the run lasts."""
    return out / folder.CHECKPOINTS / f"fold-{number}"


def _run_fold(
    config: RunConfig, task: Task, rows: pd.DataFrame, split: Split, place: Path, progress: bool
) -> None:
    data = prepare_data(config, task, *take(rows, split), METHODS[config.method])
    run = prepare(data, place, progress=progress, keep=True)
    checkpoints = place / folder.CHECKPOINTS
    before = folder.stored_or_computed(checkpoints / "before.json", run.evaluate)
    run.train(folder.last_checkpoint(checkpoints, data.settings.steps))
    outputs = run.outputs()
    labels = ([row["labels"] for row in part] for part in (data.train, data.eval))
    result = {
        "rows": dict(data.rows),
        "baseline": kind_of(task).constant_answer(task, *labels),
        "before": before,
        "after": outputs.scores,
    }
    if is_first():
        np.savez(place / OUTPUTS, kept=outputs.kept, labels=outputs.labels)
        write_json(place / RESULT, result)  # last: it says that the fold is finished
        folder.remove(checkpoints)
    wait_for_all()
    del run
    gc.collect()  # a Trainer refers to itself, so that only the collector frees it and its model
