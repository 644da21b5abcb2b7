"""One class of several for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from corefold.errors import InputError
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import RunConfig
from corefold.finetune.data import Columns
from corefold.finetune.task import Task
from corefold.finetune.tasks.kind import settings_of_task
from corefold.finetune.tasks.text_head import TextHeadKind, choose_head, choose_pair, require_label
from corefold.tables.columns import label_text, require_scalars, text_cells

MAX_DIGITS = 1000  # Python refuses to read whole numbers of several thousand digits.


class Classification(TextHeadKind):
    """One class of several for each text; logits (rows, classes)."""

    name = "classification"
    main_score = "accuracy"
    stratified = True
    new_columns = ("prediction", "probability")

    def clean_labels(self, labels: pd.Series, source: str) -> pd.Series:
        """Class names: strings as they are, and numbers as their text, where 1.0 is "1"."""
        require_scalars(labels, source)
        names = [label_text(label) for label in labels.tolist()]
        return text_cells(pd.Series(names, index=labels.index, name=labels.name, dtype=object), source)

    def make_task(
        self, config: RunConfig, columns: Columns, train: pd.DataFrame, checkpoint: Checkpoint
    ) -> Task:
        """The task of a run.

        Raises:
            InputError: no label column, one class only, or labels that do not look like classes.
        """
        classes = class_names(train[require_label(columns, self.name)], config.train)
        head = choose_head(config, checkpoint, len(classes))
        return Task(
            kind=self.name,
            head=head,
            pair=choose_pair(config, columns, checkpoint, head),
            classes=in_order_of_head(classes, checkpoint) if head == "own" else classes,
            **settings_of_task(config, columns),
        )

    def head_settings(self, task: Task) -> dict[str, Any]:
        """Class names, in both directions."""
        return {
            "problem_type": "single_label_classification",
            "id2label": dict(enumerate(task.classes)),
            "label2id": {name: index for index, name in enumerate(task.classes)},
        }

    def targets(self, task: Task, labels: pd.Series, source: str) -> Sequence[int]:
        """The numbers of the classes."""
        index = {name: i for i, name in enumerate(task.classes)}
        unseen = ~labels.isin(task.classes)
        if unseen.any():
            row = int(unseen.to_numpy().argmax())
            raise InputError(
                f"{source}, row {row + 1}: class {labels.iloc[row]!r} never occurs in the training data"
            )
        return labels.map(index).tolist()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(logits, labels)

    def scores(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Accuracy and macro F1."""
        from sklearn.metrics import accuracy_score, f1_score

        predicted = outputs.argmax(-1)
        return {
            "accuracy": float(accuracy_score(labels, predicted)),
            "f1_macro": float(f1_score(labels, predicted, average="macro", zero_division=0)),  # type: ignore[arg-type]
        }

    def constant_answer(
        self, task: Task, train_labels: Sequence[Any], eval_labels: Sequence[Any]
    ) -> dict[str, float]:
        """The score of the majority class."""
        majority = int(np.bincount(train_labels, minlength=task.outputs).argmax())
        return {"accuracy": float(np.mean(np.asarray(eval_labels) == majority))}

    def predictions(self, task: Task, outputs: np.ndarray) -> dict[str, Sequence[Any]]:
        """The class of highest probability, and that probability."""
        probabilities = torch.from_numpy(outputs).softmax(-1).numpy()
        best = probabilities.argmax(-1)
        return {
            "prediction": [task.classes[index] for index in best],
            "probability": probabilities[np.arange(len(best)), best].tolist(),
        }


def class_names(labels: pd.Series, source: str) -> tuple[str, ...]:
    """The different labels: whole numbers first, in their order, then words.

    Raises:
        InputError: one class only, or labels that do not look like classes.
    """
    names = sorted(labels.unique(), key=_place)
    if len(names) < 2:
        raise InputError(f"{source} has one class only, {names[0]!r}; a classifier needs at least two")
    if len(names) > len(labels) // 2:
        raise InputError(
            f"{source}: {len(names)} different labels in {len(labels)} rows do not look like classes; "
            "for numbers use --task regression, for texts --task causal-lm"
        )
    return tuple(names)


def _place(name: str) -> tuple[bool, int, str]:
    digits = name.removeprefix("-")
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS
    return not is_number, int(name) if is_number else 0, name


def in_order_of_head(classes: tuple[str, ...], checkpoint: Checkpoint) -> tuple[str, ...]:
    """Classes in the order of the checkpoint's head, if it has the same names; upper and lower case do not matter."""
    names = [name.lower() for name in checkpoint.outputs]
    own = {name.lower(): name for name in classes}
    return tuple(own[name] for name in names) if sorted(names) == sorted(own) else classes
