"""The scores in metrics.json, of the rows that judge or of the folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corefold.finetune.cross_validation import CrossValidation
from corefold.finetune.run_data import RunData
from corefold.finetune.scoring import Judgement
from corefold.finetune.tasks.kinds import kind_of
from corefold.finetune.trainer import TrainingRun


def scores_of_run(
    data: RunData, before: Mapping[str, float], judged: Judgement | None, across: CrossValidation | None
) -> dict[str, Any]:
    """The parts that say how good the model is.

    Args:
        data: the data of the model that is kept.
        before: its scores before training.
        judged: its scores after training; None where folds judge alone.
        across: the folds, if there are any. Without `judged` their means stand in the usual places.
    """
    kind, rows = kind_of(data.task), {"train": data.rows["train"]}
    labels = ([row["labels"] for row in part] for part in (data.train, data.eval))
    if judged is not None:
        baseline = kind.constant_answer(data.task, *labels)
    elif across is not None:
        judged, before, baseline = across.judgement, across.mean("before"), across.mean("baseline")
    else:
        raise ValueError("a run is judged by rows to evaluate on, by folds, or by both; got neither")
    rows["eval"] = data.rows["eval"] or judged.rows
    if data.selection:
        rows["selection"] = len(data.selection)
    score, lower_is_better = kind.judged_by or (kind.main_score, kind.lower_is_better)
    return {
        "task": data.task.kind,
        "rows": rows,
        "baseline": baseline,
        "before": before,
        "after": judged.scores,
        "intervals": judged.intervals,
        "judged_by": {"score": score, "lower_is_better": lower_is_better, "constant": kind.constant_name},
        "report": judged.report,
        "class_rows": kind.class_rows(data.task, [row["labels"] for row in data.train]),
        **({} if across is None else {"folds": across.metrics()}),
    }


def kept_step(run: TrainingRun) -> dict[str, Any]:
    """The step that was kept and the one at which training stopped, where rows were held out to choose it."""
    settings = run.data.settings
    if not settings.selects:
        return {}
    return {
        "kept": {
            "keep": settings.keep,
            "step": run.kept_step(),
            "stopped": run.trainer.state.global_step,
            "steps": settings.steps,
        }
    }
