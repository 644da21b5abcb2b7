"""Embeddings for retrieval: from pairs of an anchor and a text that matches it, or with a text that does not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedTokenizerBase

from corefold.errors import InputError
from corefold.finetune.checkpoint import Checkpoint
from corefold.finetune.config import RunConfig
from corefold.finetune.data import Columns
from corefold.finetune.encoding import rows_of_parts
from corefold.finetune.evaluation.intervals import Intervals
from corefold.finetune.evaluation.retrieval import (
    mean_scores,
    one_order_scores,
    retrieval_intervals,
    retrieval_scores,
)
from corefold.finetune.task import Task
from corefold.finetune.tasks.kind import first_output, settings_of_task
from corefold.finetune.tasks.text_head import PooledKind
from corefold.tables.columns import empty_cells, row_number


class Embedding(PooledKind):
    """An embedding for each text, close to those of the texts that match it.

    Outputs are embeddings (rows, texts of a row, width). Labels are numbers of texts, equal for equal texts, (rows, 3
    or 4): the table, whose matching texts are the corpus of its anchors; the anchor; the text that matches; and the
    text that does not, if the task has such a column.
    """

    name = "embedding"
    main_score = "mrr@10"
    new_columns = ("similarity", "embedding")
    constant_name = "one order of the texts for all"

    def clean(self, table: pd.DataFrame, columns: Columns, source: str) -> pd.DataFrame:
        """The texts of a run; a row without a text that does not match repeats the one that does, which counts nothing.

        Raises:
            InputError: as usual, or a text that both matches and does not.
        """
        if columns.label not in table.columns or columns.text_pair not in table.columns:
            return super().clean(table, columns, source)
        gaps = empty_cells(table[columns.label])
        filled = table[columns.label].astype(object).mask(gaps, table[columns.text_pair].astype(object))
        cleaned = super().clean(table.assign(**{str(columns.label): filled}), columns, source)
        same = (cleaned[columns.label] == cleaned[columns.text_pair]).to_numpy() & ~gaps
        if same.any():
            row = row_number(cleaned[columns.label], int(same.argmax()))
            raise InputError(
                f"{source}, row {row}: columns {columns.text_pair!r} and {columns.label!r} hold the same text, which "
                "cannot both match and not match; change one, or leave the second empty"
            )
        return cleaned

    def clean_labels(self, labels: pd.Series, source: str) -> pd.Series:
        """Texts that do not match."""
        return self.clean_texts(labels, source)

    def columns_to_predict(self, columns: Columns, available: Sequence[str]) -> Columns:
        """Both texts, or the first alone where the table has no other."""
        return columns.without_label() if columns.text_pair in available else Columns(columns.text)

    def make_task(
        self, config: RunConfig, columns: Columns, train: pd.DataFrame, checkpoint: Checkpoint
    ) -> Task:
        """The task of a run: mean-pooled tokens without head.

        Raises:
            InputError: no column of texts that match, nothing that they could be told from, or settings that pool
                nothing.
        """
        if columns.text_pair is None:
            raise InputError(
                "--text-pair must name the column of the texts that match --text, from which embedding learns"
            )
        if config.head == "own" or config.pair == "joint":
            option = "--head own" if config.head == "own" else "--pair joint"
            raise InputError(f"embedding pools the tokens of each text alone; leave out {option}")
        if checkpoint.is_encoder_decoder:
            raise InputError(f"{config.model} is an encoder-decoder, which mean pooling does not cover")
        if columns.label is None and train[columns.text_pair].nunique() < 2:
            raise InputError(f"{config.train}: all rows have the same text in {columns.text_pair!r}")
        if columns.label is None and config.batch_size < 2:
            raise InputError(
                "--batch-size 1 leaves no other text to tell a pair from; take 2 or more, or name a column of texts "
                "that do not match by --label"
            )
        return Task(kind=self.name, head="cosine", **settings_of_task(config, columns))

    def model_class(self, task: Task) -> tuple[Any, dict[str, Any]]:
        """An encoder without head."""
        return AutoModel, {}

    def peft_task_type(self, task: Task) -> str:
        """PEFT's name of the kind of task."""
        return "FEATURE_EXTRACTION"

    def encode(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, source: str
    ) -> list[dict[str, Any]]:
        """The texts of each row as token ids and, where the table has matching texts, the numbers of its texts."""
        names = [name for name in task.columns.names() if name in table.columns]
        rows = rows_of_parts(task, tokenizer, [table[name].tolist() for name in names])
        if task.columns.text_pair in names:
            numbers = [[_number(text) for text in table[name]] for name in names]
            corpus = _number(repr(numbers[:2]))
            for row, *texts in zip(rows, *numbers, strict=True):
                row["labels"] = [corpus, *texts]
        return rows

    def join(self, embeddings: Sequence[Tensor], head: nn.Linear | None) -> Tensor:
        """The embeddings beside each other."""
        return torch.stack([*embeddings], dim=1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """sentence-transformers' MultipleNegativesRankingLoss: the texts of all other rows of the batch do not match.

        Texts that do match, as the rows of the batch say, and texts that equal the anchor are left out of the others.
        Its `NoDuplicatesBatchSampler` would part such rows, which makes the batches of few rows smaller and does not
        reach the evaluation's.
        """
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from sentence_transformers.util import cos_sim

        left_out = _left_out(labels)

        def similarity(anchors: Tensor, texts: Tensor) -> Tensor:
            return cos_sim(anchors, texts).masked_fill(left_out, -torch.inf)

        # The model would only embed the texts, which is done.
        ranking = MultipleNegativesRankingLoss(nn.Identity(), similarity_fct=similarity)  # type: ignore[arg-type]
        return ranking.compute_loss_from_embeddings(list(outputs.unbind(1)), labels)

    def kept_outputs(self, outputs: Any, labels: Tensor) -> Tensor:
        """The embeddings of anchors and matching texts."""
        return first_output(outputs)[:, :2]

    def scores(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """How the anchors find their matches among the matching texts of all rows, by cosine."""
        return mean_scores(_row_scores(outputs, labels))

    def intervals(self, task: Task, outputs: np.ndarray, labels: np.ndarray, seed: int) -> Intervals:
        """Intervals over anchors."""
        return retrieval_intervals(_row_scores(outputs, labels), seed)

    def constant_answer(
        self, task: Task, train_labels: Sequence[Any], eval_labels: Sequence[Any]
    ) -> dict[str, float]:
        """Scores of one order of the texts for all anchors: among n different texts, an accuracy@1 of 1 / n."""
        return one_order_scores(np.asarray(eval_labels))

    def predictions(self, task: Task, outputs: np.ndarray) -> dict[str, Sequence[Any]]:
        """The cosine of both texts, or the embedding of one, as the encoder's `encode` returns it."""
        if outputs.shape[1] == 1:
            return {"embedding": outputs[:, 0].astype(float).tolist()}
        first, second = np.moveaxis(_normalized(outputs), 1, 0)
        return {"similarity": (first * second).sum(-1).tolist()}


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _left_out(labels: Tensor) -> Tensor:
    """The texts of a batch that are no negatives, (rows, texts): matches in other rows, and the anchor itself."""
    _, anchors, matches, *others = labels.unbind(1)
    texts = torch.cat([matches, *others])
    same_anchor = (anchors[:, None] == anchors).float()
    known = same_anchor @ (matches[:, None] == texts).float() > 0
    left_out = known | (anchors[:, None] == texts)
    left_out.fill_diagonal_(False)  # Here stands the text that each row learns.
    return left_out


def _row_scores(outputs: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    normalized = _normalized(outputs)
    return retrieval_scores(normalized[:, 0], normalized[:, 1], labels[:, :3])


def _normalized(outputs: np.ndarray) -> np.ndarray:
    outputs = outputs.astype(float)
    return outputs / np.maximum(np.linalg.norm(outputs, axis=-1, keepdims=True), 1e-12)
