"""Tasks whose model has a head on texts: the checkpoint's own head, or one on mean-pooled tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from corefold.errors import InputError
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import Pair, RunConfig
from corefold.finetune.data import Columns
from corefold.finetune.encoding import text_inputs
from corefold.finetune.linear_head import LinearHead
from corefold.finetune.task import Task
from corefold.finetune.tasks.kind import OutputKind, first_output


class PooledKind(OutputKind):
    """A kind of task whose model may be an encoder with mean pooling, an `EncoderModel`."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of what `join` returns."""

    def join(self, embeddings: Sequence[Tensor], head: nn.Linear | None) -> Tensor:
        """The outputs (rows, outputs) of one embedding or two of each row, or cosines (rows,).

        Two embeddings u, v have their cosine, or a linear head on [u, v, |u - v|] (Reimers and Gurevych 2019).

        Raises:
            InputError: one embedding and no head.
        """
        if head is not None:
            return head(head_features(embeddings))
        if len(embeddings) == 1:
            raise InputError("a single text needs a head; the task has none")
        return torch.cosine_similarity(embeddings[0], embeddings[-1])


def head_features(embeddings: Sequence[Tensor]) -> Tensor:
    """What a linear head reads (rows, width or 3 width): one embedding u, or [u, v, |u - v|] of two."""
    if len(embeddings) == 1:
        return embeddings[0]
    u, v = embeddings
    return torch.cat([u, v, (u - v).abs()], 1)


class TextHeadKind(PooledKind):
    """A kind of task with a head on one text or two."""

    @abstractmethod
    def linear_head(
        self, task: Task, features: np.ndarray, targets: np.ndarray, strength: float, balanced: bool
    ) -> LinearHead:
        """The best linear head on features that stay as they are; see `linear_head.fit_head`.

        Args:
            task: the task.
            features: what the head reads, with a mean square norm of 1, (rows, width).
            targets: as the loss takes them.
            strength: inverse penalty of the weights.
            balanced: whether classes count the same, whatever their rows.
        """

    @abstractmethod
    def targets(self, task: Task, labels: pd.Series, source: str) -> Sequence[Any]:
        """Cleaned labels as the loss takes them.

        Raises:
            InputError: a label that training does not know; its row is named.
        """

    @abstractmethod
    def head_settings(self, task: Task) -> dict[str, Any]:
        """Fields of the model's configuration that describe its own head."""

    def model_class(self, task: Task) -> tuple[Any, dict[str, Any]]:
        """A classifier where the model has its own head, otherwise an encoder without head."""
        if task.head != "own":
            return AutoModel, {}
        settings = {"num_labels": task.outputs, "ignore_mismatched_sizes": True, **self.head_settings(task)}
        return AutoModelForSequenceClassification, settings

    def peft_task_type(self, task: Task) -> str:
        """PEFT's name of the kind of task."""
        return "SEQ_CLS" if task.head == "own" else "FEATURE_EXTRACTION"

    def encode(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, source: str
    ) -> list[dict[str, Any]]:
        """Texts as token ids, and targets where the table has the label column."""
        rows = text_inputs(task, tokenizer, table)
        if task.columns.label in table.columns:
            targets = self.targets(task, table[task.columns.label], source)
            for row, target in zip(rows, targets, strict=True):
                row["labels"] = target
        return rows

    def kept_outputs(self, outputs: Any, labels: Tensor) -> Tensor:
        """The logits."""
        return first_output(outputs)


def choose_head(config: RunConfig, checkpoint: Checkpoint, outputs: int) -> Literal["own", "mean"]:
    """The head that the settings name; or the checkpoint's own if it has one of that size, or is a decoder.

    Raises:
        InputError: an encoder-decoder, whose tokens have no mean.
    """
    fits = checkpoint.has_classifier and len(checkpoint.outputs) == outputs
    head = config.head or ("own" if checkpoint.is_language_model or fits else "mean")
    if head == "mean" and checkpoint.is_encoder_decoder:
        raise InputError(
            f"{config.model} is an encoder-decoder, which mean pooling does not cover; add --head own"
        )
    return head


def choose_pair(config: RunConfig, columns: Columns, checkpoint: Checkpoint, head: str) -> Pair | None:
    """How two texts are read; None for one text.

    Raises:
        InputError: two embeddings, under a head that takes one input.
    """
    if not columns.text_pair:
        return None
    usual: Pair = "separate" if head != "own" and checkpoint.is_sentence_encoder else "joint"
    pair = config.pair or usual
    if head == "own" and pair == "separate":
        raise InputError(
            "--pair separate makes two embeddings, which the model's own head cannot join; add --head mean"
        )
    return pair


def require_label(columns: Columns, kind: str) -> str:
    """The column to learn.

    Raises:
        InputError: the settings name none.
    """
    if columns.label is None:
        raise InputError(f"--label must name the column to learn for {kind}")
    return columns.label
