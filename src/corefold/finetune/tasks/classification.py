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
from corefold.finetune.config import RunConfig, TaskName
from corefold.finetune.data import Columns
from corefold.finetune.evaluation.classes import class_intervals, class_report, class_scores, constant_scores
from corefold.finetune.evaluation.intervals import Intervals
from corefold.finetune.linear_head import LinearHead, logistic
from corefold.finetune.task import Task
from corefold.finetune.tasks.kind import Loss, first_output, settings_of_task
from corefold.finetune.tasks.text_head import TextHeadKind, choose_head, choose_pair, require_label
from corefold.tables.columns import label_text, require_scalars, row_number, text_cells

MAX_DIGITS = 1000  # Python refuses to read whole numbers of several thousand digits.

PROBABILITY_DIGITS = 7  # as many as float32 has


class Classification(TextHeadKind):
    """One class of several for each text; logits (rows, classes)."""

    name = "classification"
    main_score = "accuracy"
    stratified = True
    new_columns = ("prediction", "probability")
    constant_name = "the majority class"

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
        other = None if config.task is not None else _other_tasks(checkpoint)
        classes = class_names(train[require_label(columns, self.name)], config.train, other)
        return task_with_classes(self.name, classes, config, columns, checkpoint)

    def head_settings(self, task: Task) -> dict[str, Any]:
        """Class names, in both directions."""
        return {"problem_type": "single_label_classification", **names_of_outputs(task)}

    def targets(self, task: Task, labels: pd.Series, source: str) -> Sequence[int]:
        """The numbers of the classes."""
        index = {name: i for i, name in enumerate(task.classes)}
        unseen = ~labels.isin(task.classes)
        if unseen.any():
            place = int(unseen.to_numpy().argmax())
            raise InputError(
                f"{source}, row {row_number(labels, place)}: class {labels.iloc[place]!r} never occurs in the "
                "training data"
            )
        return labels.map(index).tolist()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(logits, labels)

    def linear_head(
        self, task: Task, features: np.ndarray, targets: np.ndarray, strength: float, balanced: bool
    ) -> LinearHead:
        """Logistic regression."""
        return logistic(features, targets, task.outputs, strength, balanced)

    def weighted_loss(self, task: Task, labels: Sequence[Any]) -> Loss:
        """Cross-entropy with scikit-learn's balanced weights, whose mean over the training rows is 1."""
        from sklearn.utils.class_weight import compute_class_weight

        trained = np.unique(labels)
        weights = torch.ones(len(task.classes))
        weights[trained] = torch.from_numpy(
            compute_class_weight("balanced", classes=trained, y=np.asarray(labels))
        ).float()

        def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
            logits = first_output(outputs) if isinstance(outputs, tuple) else outputs.logits
            total = nn.functional.cross_entropy(
                logits.float(), labels, weight=weights.to(logits.device), reduction="sum"
            )
            return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

        return loss

    def scores(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Accuracy, macro F1, log loss and calibration error."""
        return class_scores(outputs, labels)

    def intervals(self, task: Task, outputs: np.ndarray, labels: np.ndarray, seed: int) -> Intervals:
        """Wilson's interval of the accuracy, the bootstrap's of the other scores."""
        return class_intervals(outputs, labels, seed)

    def report(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Precision, recall, F1 and rows of each class, and the confusion matrix."""
        return class_report(outputs, labels, task.classes)

    def class_rows(self, task: Task, labels: Sequence[Any]) -> dict[str, int]:
        """The rows of each class."""
        return dict(zip(task.classes, np.bincount(labels, minlength=task.outputs).tolist(), strict=True))

    def constant_answer(
        self, task: Task, train_labels: Sequence[Any], eval_labels: Sequence[Any]
    ) -> dict[str, float]:
        """The accuracy of the majority class, and the log loss of the classes' shares."""
        return constant_scores(train_labels, eval_labels, task.outputs)

    def predictions(self, task: Task, outputs: np.ndarray) -> dict[str, Sequence[Any]]:
        """The class of highest probability, and that probability."""
        probabilities = torch.from_numpy(outputs).softmax(-1).numpy()
        best = probabilities.argmax(-1)
        return {
            "prediction": [task.classes[index] for index in best],
            "probability": probabilities[np.arange(len(best)), best]
            .astype(float)
            .round(PROBABILITY_DIGITS)
            .tolist(),
        }


def task_with_classes(
    kind: TaskName, classes: tuple[str, ...], config: RunConfig, columns: Columns, checkpoint: Checkpoint
) -> Task:
    """A task whose outputs are these classes, in the order of the checkpoint's own head where that is kept."""
    head = choose_head(config, checkpoint, len(classes))
    return Task(
        kind=kind,
        head=head,
        pair=choose_pair(config, columns, checkpoint, head),
        classes=in_order_of_head(classes, checkpoint) if head == "own" else classes,
        **settings_of_task(config, columns),
    )


def names_of_outputs(task: Task) -> dict[str, Any]:
    """The names of a head's outputs, in both directions, as a model's configuration has them."""
    return {
        "id2label": dict(enumerate(task.classes)),
        "label2id": {name: index for index, name in enumerate(task.classes)},
    }


def _other_tasks(checkpoint: Checkpoint) -> str:
    """What to do about labels that are no classes, with this model."""
    if checkpoint.is_encoder_decoder:
        texts = "for texts --task seq2seq"
    elif checkpoint.is_language_model:
        texts = "for texts --task causal-lm"
    else:
        texts = "texts need a language model or an encoder-decoder"
    return f"for numbers use --task regression, {texts}; --task classification takes them all the same"


def class_names(labels: pd.Series, source: str, other: str | None = None) -> tuple[str, ...]:
    """The different labels: whole numbers first, in their order, then words.

    Args:
        labels: the labels of all rows.
        source: the file, for messages.
        other: what else to do with them, if nobody has said that they are classes.

    Raises:
        InputError: one class only, or guessed classes that do not look like any.
    """
    names = sorted(labels.unique(), key=_place)
    if len(names) < 2:
        raise InputError(f"{source} has one class only, {names[0]!r}; a classifier needs at least two")
    if other is not None and len(names) > len(labels) // 2:
        raise InputError(
            f"{source}: {len(names)} different labels in {len(labels)} rows do not look like classes; {other}"
        )
    return tuple(names)


def _place(name: str) -> tuple[bool, int, str]:
    digits = name.removeprefix("-")
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS
    return not is_number, int(name) if is_number else 0, name


def in_order_of_head(classes: tuple[str, ...], checkpoint: Checkpoint) -> tuple[str, ...]:
    """Classes in the order of the checkpoint's head, if it has the same names.

    Upper and lower case do not matter, unless names differ by nothing else.
    """
    for spelled in (str, str.casefold):
        names = [spelled(name) for name in checkpoint.outputs]
        own = {spelled(name): name for name in classes}
        if len(own) == len(classes) and sorted(names) == sorted(own):
            return tuple(own[name] for name in names)
    return classes
