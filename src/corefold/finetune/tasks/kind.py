"""What a kind of task must define, so that runs, predictions and comparisons need not ask which kind it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from corefold.errors import InputError
from corefold.finetune import data
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import RunConfig, TaskName
from corefold.finetune.data import Columns
from corefold.finetune.evaluation.intervals import Intervals, bootstrap_intervals
from corefold.finetune.task import Task

RESAMPLES_ONE_BY_ONE = 400  # enough for two digits, where a kind cannot score many resamples at once
Loss = Callable[..., Tensor]


class TaskKind(ABC):
    """A kind of task.

    Attributes:
        name: its name in the settings.
        main_score: the score by which runs are compared, a key of `scores`.
        lower_is_better: whether a lower main score is better.
        stratified: whether draws of rows keep the classes of the label column in proportion.
        new_columns: the columns that predictions add to a table.
        head_architecture: how the name of a class of transformers with this kind's own head ends.
        placeholder: a cell of a text column that stands in rows without text while the others are predicted.
        judged_by: the score of the verdict and whether a lower one is better; None for the main score.
        constant_name: the best answer that is the same for every row, in words.
    """

    name: ClassVar[TaskName]
    main_score: ClassVar[str]
    lower_is_better: ClassVar[bool] = False
    stratified: ClassVar[bool] = False
    new_columns: ClassVar[tuple[str, ...]] = ("prediction",)
    head_architecture: ClassVar[str] = "ForSequenceClassification"
    placeholder: ClassVar[Any] = "nothing"
    judged_by: ClassVar[tuple[str, bool] | None] = None
    constant_name: ClassVar[str] = "the best constant answer"

    def clean(self, table: pd.DataFrame, columns: Columns, source: str) -> pd.DataFrame:
        """The columns of a run, as this kind reads them.

        Raises:
            InputError: a missing or unusable value; its row is named.
        """
        return data.clean(table, columns, self.clean_labels, source, self.clean_texts)

    def clean_texts(self, texts: pd.Series, source: str) -> pd.Series:
        """The cells of a text column as this kind reads them: as str."""
        return data.as_text(texts, source)

    def columns_to_predict(self, columns: Columns, available: Sequence[str]) -> Columns:
        """The columns from which this kind predicts, for a table with the columns `available`."""
        return columns.without_label()

    @abstractmethod
    def clean_labels(self, labels: pd.Series, source: str) -> pd.Series:
        """The cells of the label column as this kind reads them.

        Raises:
            InputError: a cell that is no label of this kind; its row is named.
        """

    @abstractmethod
    def make_task(
        self, config: RunConfig, columns: Columns, train: pd.DataFrame, checkpoint: Checkpoint
    ) -> Task:
        """The task of a run; checkpoint and training rows decide what the settings leave open.

        Raises:
            InputError: model, settings and rows do not make such a task.
        """

    @abstractmethod
    def model_class(self, task: Task) -> tuple[Any, dict[str, Any]]:
        """The class of transformers that loads the base model, and arguments for its `from_pretrained`."""

    @abstractmethod
    def peft_task_type(self, task: Task) -> str:
        """PEFT's name of the kind of task."""

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Change a tokenizer before training, where this kind needs it; runs keep the tokenizer.

        Raises:
            InputError: a tokenizer that this kind cannot use.
        """
        return

    @abstractmethod
    def encode(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, source: str
    ) -> list[dict[str, Any]]:
        """Cleaned rows as token ids and, where the table has the label column, labels.

        Raises:
            InputError: a label that training does not know; its row is named.
        """

    def make_trainer(
        self, arguments: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, **parts: Any
    ) -> Trainer:
        """The trainer of this kind.

        Args:
            arguments: fields of `TrainingArguments`.
            tokenizer: the tokenizer of the rows.
            parts: all other arguments of `Trainer`: model, rows, callbacks...
        """
        return Trainer(args=TrainingArguments(**arguments), **parts)

    @abstractmethod
    def kept_outputs(self, outputs: Any, labels: Tensor) -> Tensor:
        """The part of the model's outputs that `scores` needs, one entry a row."""

    @abstractmethod
    def scores(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Scores of `kept_outputs` against encoded labels."""

    def intervals(self, task: Task, outputs: np.ndarray, labels: np.ndarray, seed: int) -> Intervals:
        """95 % intervals of the scores over rows; None for a score without one."""

        def scores(places: np.ndarray) -> dict[str, np.ndarray]:
            each = [self.scores(task, outputs[rows], labels[rows]) for rows in places]
            return {name: np.array([scores[name] for scores in each]) for name in each[0]}

        return bootstrap_intervals(len(labels), scores, seed, RESAMPLES_ONE_BY_ONE)

    def report(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """For kinds with classes: `classes`, a dict for each; `confusion`, a row for each true class; `confidence`."""
        return {}

    def class_rows(self, task: Task, labels: Sequence[Any]) -> dict[str, int]:
        """For kinds with classes: how many rows with these encoded labels each class has."""
        return {}

    def weighted_loss(self, task: Task, labels: Sequence[Any]) -> Loss:
        """A loss in which every class weighs the same, as `compute_loss_func` of Trainer.

        Args:
            task: the task.
            labels: encoded labels of the training rows.

        Raises:
            InputError: the kind has no classes to weigh.
        """
        raise InputError(
            f"--class-weight balanced weighs the classes of a classification; this is {self.name}"
        )

    @abstractmethod
    def constant_answer(
        self, task: Task, train_labels: Sequence[Any], eval_labels: Sequence[Any]
    ) -> dict[str, float]:
        """Scores of the best answer that is the same for every row; empty where there is none."""


class OutputKind(TaskKind):
    """A kind of task whose predictions follow from the model's outputs."""

    @abstractmethod
    def predictions(self, task: Task, outputs: np.ndarray) -> dict[str, Sequence[Any]]:
        """The columns that predictions add, from `kept_outputs`."""

    def predictions_of(
        self, task: Task, table: pd.DataFrame, outputs: np.ndarray
    ) -> dict[str, Sequence[Any]]:
        """`predictions` of cleaned rows, for kinds whose answers have the lengths of their texts."""
        return self.predictions(task, outputs)


def settings_of_task(config: RunConfig, columns: Columns) -> Mapping[str, Any]:
    """The fields of a task that come from the settings as they stand."""
    config = config.with_defaults()
    return {
        "model": config.model,
        "columns": columns,
        "separator": config.separator,
        "max_length": config.max_length,
        "dtype": config.dtype,
        "revision": config.revision,
        "load_in_4bit": config.load_in_4bit,
        "threshold": config.threshold,
    }


def first_output(outputs: Any) -> Any:
    """The logits of a model: some return their states too."""
    return outputs[0] if isinstance(outputs, tuple) else outputs
