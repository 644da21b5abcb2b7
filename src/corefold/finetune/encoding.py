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


def text_inputs(task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The texts of each row as token ids, in the shape that the head of the task takes.

    Returns:
        For the model's own head the tokenizer's fields; otherwise "first" and, for two embeddings, "second", each with
        those fields.
    """
    first = table[task.columns.text].tolist()
    second = table[task.columns.text_pair].tolist() if task.columns.text_pair else None

    def ids(*texts: Any) -> list[dict[str, Any]]:
        batch = tokenizer(*texts, truncation=True, max_length=task.max_length)
        return [{name: batch[name][row] for name in batch} for row in range(len(first))]

    if task.pair == "separate":
        return [{"first": a, "second": b} for a, b in zip(ids(first), ids(second), strict=True)]
    rows = ids(first, second) if second else ids(first)
    return rows if task.head == "own" else [{"first": each} for each in rows]


@dataclass(frozen=True)
class Collator:
    """Makes a padded batch of tensors of encoded rows."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pad `rows`: the parts "first" and "second" become a batch each, all other keys one batch."""
        parts = [name for name in ("first", "second") if name in rows[0]]
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
