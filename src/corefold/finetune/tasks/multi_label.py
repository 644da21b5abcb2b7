"""Any number of labels for each text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from corefold.errors import InputError
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import RunConfig
from corefold.finetune.data import Columns
from corefold.finetune.linear_head import LinearHead, logistic_of_each
from corefold.finetune.task import Task
from corefold.finetune.tasks.classification import class_names, names_of_outputs, task_with_classes
from corefold.finetune.tasks.text_head import TextHeadKind, require_label
from corefold.tables.columns import row_number
from corefold.tables.lists import list_cells


class MultiLabel(TextHeadKind):
    """Any number of labels for each text, each with a probability of its own; logits and targets (rows, labels).

    A label is predicted where its probability reaches `Task.threshold`. The threshold comes from the settings, because
    the few rows of a usual run say too little about a better one.
    """

    name = "multi-label"
    main_score = "f1_micro"
    new_columns = ("prediction", "probabilities")

    def clean_labels(self, labels: pd.Series, source: str) -> pd.Series:
        """Tuples of label names."""
        return list_cells(labels, source, '["a", "b"]')

    def make_task(
        self, config: RunConfig, columns: Columns, train: pd.DataFrame, checkpoint: Checkpoint
    ) -> Task:
        """The task of a run.

        Raises:
            InputError: no label column, or fewer than two labels in all rows.
        """
        cells = train[require_label(columns, self.name)]
        labels = pd.Series([*chain.from_iterable(cells)], dtype=object)
        if labels.empty:
            raise InputError(f"{config.train}: no row has a label in {columns.label!r}")
        classes = class_names(labels, config.train)
        _require_each_column(columns.label, classes, config.train)
        return task_with_classes(self.name, classes, config, columns, checkpoint)

    def head_settings(self, task: Task) -> dict[str, Any]:
        """Names of the labels, in both directions; transformers then trains with the same loss."""
        return {"problem_type": "multi_label_classification", **names_of_outputs(task)}

    def targets(self, task: Task, labels: pd.Series, source: str) -> Sequence[list[float]]:
        """1.0 for each label that a row has, 0.0 for the others."""
        index = {name: i for i, name in enumerate(task.classes)}
        rows = np.zeros((len(labels), task.outputs))
        for place, names in enumerate(labels):
            for name in names:
                if name not in index:
                    raise InputError(
                        f"{source}, row {row_number(labels, place)}: label {name!r} never occurs in the training data"
                    )
                rows[place, index[name]] = 1.0
        return rows.tolist()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over labels."""
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    def linear_head(
        self, task: Task, features: np.ndarray, targets: np.ndarray, strength: float, balanced: bool
    ) -> LinearHead:
        """Logistic regression of each label."""
        return logistic_of_each(features, targets, strength)

    def scores(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Micro and macro F1, and the share of rows whose labels are all right."""
        return _scores(_probabilities(outputs) >= task.threshold, labels)

    def report(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Precision, recall, F1 and rows of each label."""
        from sklearn.metrics import precision_recall_fscore_support

        predicted = _probabilities(outputs) >= task.threshold
        found: Any = precision_recall_fscore_support(labels > 0, predicted, average=None, zero_division=0)  # type: ignore[arg-type]
        names = ("precision", "recall", "f1")
        rows = zip(task.classes, *(part.tolist() for part in found), strict=True)
        return {
            "classes": [
                {"class": label, **dict(zip(names, scores, strict=True)), "rows": count}
                for label, *scores, count in rows
            ]
        }

    def class_rows(self, task: Task, labels: Sequence[Any]) -> dict[str, int]:
        """The rows of each label."""
        return dict(zip(task.classes, np.asarray(labels).sum(0).astype(int).tolist(), strict=True))

    def constant_answer(
        self, task: Task, train_labels: Sequence[Any], eval_labels: Sequence[Any]
    ) -> dict[str, float]:
        """Scores of the set of labels that has the best micro F1 on the training rows: some of the most frequent."""
        train, held_out = np.asarray(train_labels), np.asarray(eval_labels)
        counts = train.sum(0)
        order = np.argsort(-counts, kind="stable")
        chosen = np.arange(1, len(order) + 1)
        f1 = 2 * counts[order].cumsum() / (chosen * len(train) + counts.sum())
        answer = np.zeros(len(order), dtype=bool)
        answer[order[: f1.argmax() + 1]] = True
        return _scores(np.tile(answer, (len(held_out), 1)), held_out)

    def predictions(self, task: Task, outputs: np.ndarray) -> dict[str, Sequence[Any]]:
        """The labels whose probability reaches the threshold, and the probabilities of all."""
        probabilities = _probabilities(outputs)
        chosen = [np.flatnonzero(row >= task.threshold) for row in probabilities]
        return {
            "prediction": [[task.classes[index] for index in row] for row in chosen],
            "probabilities": [dict(zip(task.classes, row, strict=True)) for row in probabilities.tolist()],
        }


def _require_each_column(label: str | None, classes: tuple[str, ...], source: str) -> None:
    """Refuse columns of 0 and 1 of which one has no 1, so that there is nothing to learn."""
    names = [part.strip() for part in (label or "").split(",")]
    never = [name for name in names if name not in classes]
    if never and {*classes} < {*names}:
        raise InputError(f"{source}: no row has a 1 in column {never[0]!r}; leave it out of --label")


def _probabilities(outputs: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(outputs)


def _scores(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    true = labels > 0
    micro, macro = (f1_score(true, predicted, average=kind, zero_division=0) for kind in ("micro", "macro"))  # type: ignore[arg-type]
    return {
        "f1_micro": float(micro),
        "f1_macro": float(macro),
        "exact_rows": float(accuracy_score(true, predicted)),
    }
