"""From rows to tensors: texts become token ids, and batches are padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from corefold.finetune.task import Task

IGNORED = -100  # label of a token that the loss leaves out, as in transformers
PARTS = ("first", "second", "third")  # the texts of a row that are read one by one


def text_inputs(task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The texts of each row as token ids, in the shape that the head of the task takes.

    Returns:
        For the model's own head the tokenizer's fields; otherwise "first" and, for two embeddings, "second", each with
        those fields.
    """
    first = table[task.columns.text].tolist()
    second = table[task.columns.text_pair].tolist() if task.columns.text_pair else None

    if task.pair == "separate" and second:
        return rows_of_parts(task, tokenizer, [first, second])
    batch = tokenizer(first, second, truncation=True, max_length=task.max_length)
    rows = _rows(batch, len(first))
    return rows if task.head == "own" else [{"first": each} for each in rows]


def rows_of_parts(
    task: Task, tokenizer: PreTrainedTokenizerBase, texts: Sequence[list[str]]
) -> list[dict[str, Any]]:
    """Texts that are read one by one as token ids: in each row as many of the `PARTS` as it has texts.

    Args:
        task: the task.
        tokenizer: the tokenizer of the model.
        texts: for each part its texts, one a row.
    """
    batches = [tokenizer(part, truncation=True, max_length=task.max_length) for part in texts]
    columns = [_rows(batch, len(part)) for batch, part in zip(batches, texts, strict=True)]
    return [dict(zip(PARTS, row, strict=False)) for row in zip(*columns, strict=True)]


def _rows(batch: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    return [{name: batch[name][row] for name in batch} for row in range(count)]


@dataclass(frozen=True)
class Collator:
    """Makes a padded batch of tensors of encoded rows."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pad `rows`: each of the `PARTS` becomes a batch, all other keys one batch."""
        parts = [name for name in PARTS if name in rows[0]]
        if parts:
            batch: dict[str, Any] = {name: self._pad([row[name] for row in rows]) for name in parts}
        else:
            batch = self._pad([{k: v for k, v in row.items() if k != "labels"} for row in rows])
        if "labels" in rows[0]:
            batch["labels"] = self._labels([row["labels"] for row in rows])
        return batch

    def _pad(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        return dict(self.tokenizer.pad(rows, padding=True, return_tensors="pt"))  # type: ignore[arg-type]

    def _labels(self, labels: list[Any]) -> torch.Tensor:
        if not isinstance(labels[0], list):
            return torch.tensor(labels)
        longest = max(map(len, labels))
        padded = [[IGNORED] * (longest - len(row)) for row in labels]
        if self.tokenizer.padding_side == "left":
            return torch.tensor([pad + row for pad, row in zip(padded, labels, strict=True)])
        return torch.tensor([row + pad for pad, row in zip(padded, labels, strict=True)])
