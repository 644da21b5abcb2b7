"""What a run learns: the kind of task, the model's head, and how rows become tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from corefold.finetune.config import Pair, RunConfig, TaskKind
from corefold.finetune.data import Columns, guess_task
from corefold.finetune.errors import InputError

IGNORED = -100  # label of a token that the loss leaves out, as in transformers


@dataclass(frozen=True)
class Task:
    """Everything besides weights that prediction needs; saved beside the adapter as task.json.

    Attributes:
        kind: classification, regression or causal-lm.
        model: the base model, as given.
        head: "own" (the model's sequence classification head), "mean" (a linear head on mean-pooled tokens),
            "cosine" (no head: the cosine of two embeddings) or "lm".
        columns: the columns read.
        pair: how two texts are combined, None for one text.
        classes: names of the classes, in the order of the outputs.
        shift, scale: a regression target is shift + scale * output.
        separator: between prompt and completion.
        max_length: in tokens.
        dtype: of the base model.
    """

    kind: TaskKind
    model: str
    head: Literal["own", "mean", "cosine", "lm"]
    columns: Columns
    pair: Pair | None = None
    classes: tuple[str, ...] = ()
    shift: float = 0.0
    scale: float = 1.0
    separator: str = "\n"
    max_length: int = 256
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def outputs(self) -> int:
        """Numbers that the head returns for a row."""
        return len(self.classes) if self.kind == "classification" else 1

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read what `save` wrote."""
        state = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**state, "columns": Columns(**state["columns"]), "classes": tuple(state["classes"])})


def choose_kind(config: RunConfig, table: pd.DataFrame, columns: Columns) -> TaskKind:
    """The task that the settings name, or the one that model and label column suggest."""
    if config.task is not None:
        return config.task
    if columns.label is None:
        raise InputError(
            "--label must name the column to learn, or --task causal-lm say that the text itself is it"
        )
    labels = table[columns.label]
    free_text = not pd.api.types.is_numeric_dtype(labels) and labels.nunique() > max(50, len(table) // 2)
    return "causal-lm" if free_text else guess_task(labels)


def make_task(config: RunConfig, kind: TaskKind, columns: Columns, train: pd.DataFrame) -> Task:
    """The task of a run, with what the settings leave open chosen from the checkpoint and the training rows.

    Args:
        config: the settings.
        kind: what is learned.
        columns: the columns read.
        train: all training rows, cleaned; classes and the range of numbers come from here.

    Raises:
        InputError: no label where one is needed, one class only, constant numbers.
    """
    shared = {
        "model": config.model,
        "columns": columns,
        "separator": config.separator,
        "max_length": config.max_length,
        "dtype": config.dtype,
    }
    if kind == "causal-lm":
        return Task(kind="causal-lm", head="lm", **shared)
    if columns.label is None:
        raise InputError(f"--label must name the column to learn for {kind}")
    labels = train[columns.label]
    classes = _classes(labels, config) if kind == "classification" else ()
    head = config.head or ("own" if _has_own_head(config, kind, len(classes)) else "mean")
    pair = (config.pair or _default_pair(config.model, head)) if columns.text_pair else None
    if head == "own" and pair == "separate":
        raise InputError(
            "--pair separate makes two embeddings, which the model's own head cannot join; add --head mean"
        )
    shift, scale = 0.0, 1.0
    if kind == "regression":
        if labels.nunique() < 2:
            raise InputError(f"{config.train}: every label in {columns.label!r} is {labels.iloc[0]:g}")
        cosine = pair == "separate"
        head = "cosine" if cosine else head
        shift = float(labels.min() if cosine else labels.mean())
        scale = float(labels.max() - labels.min() if cosine else labels.std(ddof=0))
    return Task(kind=kind, head=head, pair=pair, classes=classes, shift=shift, scale=scale, **shared)


def _classes(labels: pd.Series, config: RunConfig) -> tuple[str, ...]:
    names = sorted(labels.unique(), key=lambda name: (not name.lstrip("-").isdigit(), _as_number(name), name))
    if len(names) < 2:
        raise InputError(f"{config.train} has one class only, {names[0]!r}; a classifier needs at least two")
    if len(names) > len(labels) // 2:
        raise InputError(
            f"{config.train}: {len(names)} different labels in {len(labels)} rows do not look like classes; "
            "for numbers use --task regression, for texts --task causal-lm"
        )
    return tuple(names)


def _as_number(name: str) -> int:
    return int(name) if name.lstrip("-").isdigit() else 0


def _default_pair(model: str, head: str) -> Pair:
    is_sentence_encoder = any(
        _checkpoint_file(model, name) for name in ("modules.json", "1_Pooling/config.json")
    )
    return "separate" if is_sentence_encoder and head != "own" else "joint"


def _has_own_head(config: RunConfig, kind: str, classes: int) -> bool:
    """Whether the checkpoint was saved with a sequence classification head of the right size, or is a decoder."""
    path = _checkpoint_file(config.model, "config.json")
    state: Mapping[str, Any] = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    architectures = " ".join(state.get("architectures") or [])
    if "ForCausalLM" in architectures or config.model.endswith(".gguf"):
        return True
    outputs = len(state.get("id2label") or {0: "", 1: ""})
    return "ForSequenceClassification" in architectures and outputs == (
        classes if kind == "classification" else 1
    )


def _checkpoint_file(model: str, name: str) -> str | None:
    if Path(model).suffix == ".gguf":
        return None
    return cached_file(
        model,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def encode(
    task: Task, tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, source: str
) -> list[dict[str, Any]]:
    """The rows as token ids and, where the table has the label column, labels.

    Raises:
        InputError: a class that training has never seen.
    """
    first = table[task.columns.text].tolist()
    second = table[task.columns.text_pair].tolist() if task.columns.text_pair else None
    has_label = task.columns.label in table.columns
    if task.kind == "causal-lm":
        completions = (
            table[task.columns.label].tolist() if has_label and task.columns.label else [None] * len(first)
        )
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


def _encode_completion(
    task: Task, tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str | None
) -> dict[str, Any]:
    """One text, labels IGNORED on its prompt; a prompt too long loses its beginning, a completion its end."""
    end = str(tokenizer.eos_token or "")
    if task.columns.label is None:
        ids = tokenizer(prompt + end).input_ids[: task.max_length]
        return {"input_ids": ids, "labels": list(ids)}
    before = tokenizer(prompt + task.separator).input_ids
    if completion is None:
        return {"input_ids": before[-task.max_length :]}
    after = tokenizer(completion + end, add_special_tokens=False).input_ids[: task.max_length]
    before = before[max(0, len(before) + len(after) - task.max_length) :]
    return {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}


@dataclass(frozen=True)
class Collator:
    """Rows of `encode` to a padded batch of tensors."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pad `rows`: the parts "first" and "second" each to a batch of its own, anything else to one."""
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
