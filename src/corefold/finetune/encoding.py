"""From rows to tensors: texts become token ids, labels targets, and batches are padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from corefold.errors import InputError
from corefold.finetune.task import Task

IGNORED = -100  # label of a token that the loss leaves out, as in transformers


def encode(
    task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, source: str
) -> list[dict[str, Any]]:
    """The rows as token ids and, where the table has the label column, labels.

    Raises:
        InputError: a class that never occurs in the training data.
    """
    first = table[task.columns.text].tolist()
    second = table[task.columns.text_pair].tolist() if task.columns.text_pair else None
    has_label = task.columns.label in table.columns
    if task.kind == "causal-lm":
        if task.columns.label is None:
            return [_encode_text(task, tokenizer, text) for text in first]
        completions = table[task.columns.label].tolist()
        return [_encode_completion(task, tokenizer, *row) for row in zip(first, completions, strict=True)]

    def ids(*texts: Any) -> list[dict[str, Any]]:
        batch = tokenizer(*texts, truncation=True, max_length=task.max_length)
        return [{name: batch[name][row] for name in batch} for row in range(len(first))]

    rows: list[dict[str, Any]]
    if task.pair == "separate":
        rows = [{"first": a, "second": b} for a, b in zip(ids(first), ids(second), strict=True)]
    elif task.head == "own":
        rows = ids(first, second) if second else ids(first)
    else:
        rows = [{"first": each} for each in (ids(first, second) if second else ids(first))]
    if has_label:
        for row, label in zip(rows, _targets(task, table[task.columns.label], source), strict=True):
            row["labels"] = label
    return rows


def _targets(task: Task, labels: pd.Series, source: str) -> list[int] | list[float]:
    if task.kind == "regression":
        return ((labels - task.shift) / task.scale).tolist()
    index = {name: i for i, name in enumerate(task.classes)}
    unseen = ~labels.isin(task.classes)
    if unseen.any():
        row = int(unseen.to_numpy().argmax())
        raise InputError(
            f"{source}, row {row + 1}: class {labels.iloc[row]!r} never occurs in the training data"
        )
    return labels.map(index).tolist()


def encode_prompts(
    task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame
) -> list[dict[str, Any]]:
    """The prompts that a causal language model continues; a prompt that is too long loses its beginning."""
    separator = task.separator if task.columns.label is not None else ""
    texts = table[task.columns.text].tolist()
    return [{"input_ids": tokenizer(text + separator).input_ids[-task.max_length :]} for text in texts]


def _encode_text(task: Task, tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, Any]:
    ids = tokenizer(text + str(tokenizer.eos_token or "")).input_ids[: task.max_length]
    return {"input_ids": ids, "labels": list(ids)}


def _encode_completion(
    task: Task, tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str
) -> dict[str, Any]:
    """Labels are IGNORED on the prompt. A prompt that is too long loses its beginning, a completion its end."""
    before = tokenizer(prompt + task.separator).input_ids
    end = str(tokenizer.eos_token or "")
    after = tokenizer(completion + end, add_special_tokens=False).input_ids[: task.max_length]
    before = before[max(0, len(before) + len(after) - task.max_length) :]
    return {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}


@dataclass(frozen=True)
class Collator:
    """Makes a padded batch of tensors of rows from `encode`."""

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
