"""A number for each text, or for two texts: standardised for training, in the label's units everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from corefold.errors import InputError
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import RunConfig
from corefold.finetune.data import Columns
from corefold.finetune.evaluation.intervals import Intervals
from corefold.finetune.evaluation.numbers import number_intervals, number_scores
from corefold.finetune.linear_head import LinearHead, ridge
from corefold.finetune.task import Task
from corefold.finetune.tasks.kind import settings_of_task
from corefold.finetune.tasks.text_head import TextHeadKind, choose_head, choose_pair, require_label
from corefold.tables.columns import finite_numbers, require_scalars


class Regression(TextHeadKind):
    """A number for each text; outputs (rows,) or (rows, 1)."""

    name = "regression"
    main_score = "pearson"
    judged_by = ("mse", True)
    constant_name = "the mean of the training labels"

    def clean_labels(self, labels: pd.Series, source: str) -> pd.Series:
        """Labels as finite floats."""
        require_scalars(labels, source)
        return finite_numbers(labels, source)

    def make_task(
        self, config: RunConfig, columns: Columns, train: pd.DataFrame, checkpoint: Checkpoint
    ) -> Task:
        """The task of a run: a head for one input, or the cosine of two embeddings.

        Raises:
            InputError: no label column, or all numbers are equal.
        """
        labels = train[require_label(columns, self.name)]
        head = choose_head(config, checkpoint, 1)
        pair = choose_pair(config, columns, checkpoint, head)
        if labels.nunique() < 2:
            raise InputError(f"{config.train}: every label in {columns.label!r} is {labels.iloc[0]:g}")
        cosine, numbers = pair == "separate", labels.to_numpy(float)
        with np.errstate(over="ignore", invalid="ignore"):
            shift = float(numbers.min() if cosine else numbers.mean())
            scale = float(np.ptp(numbers) if cosine else numbers.std())
        if not np.isfinite([shift, scale]).all():
            raise InputError(
                f"{config.train}: the numbers in {columns.label!r} are so large that their spread is none; divide them"
            )
        return Task(
            kind=self.name,
            head="cosine" if cosine else head,
            pair=pair,
            shift=shift,
            scale=scale,
            **settings_of_task(config, columns),
        )

    def head_settings(self, task: Task) -> dict[str, Any]:
        """The mark of a regression."""
        return {"problem_type": "regression"}

    def targets(self, task: Task, labels: pd.Series, source: str) -> Sequence[float]:
        """Labels on the scale of the outputs."""
        return ((labels - task.shift) / task.scale).tolist()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error."""
        logits = logits.reshape(-1)
        return nn.functional.mse_loss(logits, labels.to(logits.dtype))

    def linear_head(
        self, task: Task, features: np.ndarray, targets: np.ndarray, strength: float, balanced: bool
    ) -> LinearHead:
        """Ridge regression."""
        return ridge(features, targets, strength)

    def scores(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Pearson and Spearman correlation (0 if a side is constant), and mean squared error in the label's units."""
        return number_scores(outputs.reshape(-1) * task.scale, labels.reshape(-1) * task.scale)

    def intervals(self, task: Task, outputs: np.ndarray, labels: np.ndarray, seed: int) -> Intervals:
        """The bootstrap's intervals of the scores."""
        return number_intervals(outputs.reshape(-1) * task.scale, labels.reshape(-1) * task.scale, seed)

    def constant_answer(
        self, task: Task, train_labels: Sequence[Any], eval_labels: Sequence[Any]
    ) -> dict[str, float]:
        """The error of the mean."""
        error = (np.asarray(eval_labels) - np.mean(train_labels)) * task.scale
        return {"mse": float(np.mean(error**2))}

    def predictions(self, task: Task, outputs: np.ndarray) -> dict[str, Sequence[Any]]:
        """Numbers in the label's units."""
        return {"prediction": (task.shift + task.scale * outputs.reshape(-1).astype(float)).tolist()}
