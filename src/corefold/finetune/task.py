"""The task of a run: its kind, the head of the model, and how two texts are combined."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from corefold.errors import InputError
from corefold.finetune.config import Pair, RunConfig, TaskKind
from corefold.finetune.data import Columns, guess_task
from corefold.tables.atomic import write_json


@dataclass(frozen=True)
class Task:
    """Everything besides weights that prediction needs; saved beside the adapter as task.json.

    Attributes:
        kind: classification, regression or causal-lm.
        model: the base model, as given.
        head: "own" (the model's sequence classification head), "mean" (a linear head on mean-pooled tokens),
            "cosine" (no head: the cosine of two embeddings) or "lm".
        columns: the columns of the tables that are read.
        pair: how two texts are combined; None for one text.
        classes: names of the classes, in the order of the outputs.
        shift, scale: a regression target is shift + scale * output.
        separator: between prompt and completion.
        max_length: longest input, in tokens.
        dtype: precision of the base model.
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

    @property
    def stratify(self) -> str | None:
        """The column whose classes a draw of rows keeps in proportion."""
        return self.columns.label if self.kind == "classification" else None

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, asdict(self))

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
            "--label must name the column to learn; to learn the text itself, add --task causal-lm"
        )
    labels = table[columns.label]
    free_text = not pd.api.types.is_numeric_dtype(labels) and labels.nunique() > max(50, len(table) // 2)
    return "causal-lm" if free_text else guess_task(labels)


def make_task(config: RunConfig, kind: TaskKind, columns: Columns, train: pd.DataFrame) -> Task:
    """The task of a run; the checkpoint and the training rows decide what the settings leave open.

    Args:
        config: the settings.
        kind: the kind of task.
        columns: the columns of the tables that are read.
        train: all training rows, cleaned; they say which classes there are and the range of numbers.

    Raises:
        InputError: a label is needed and missing, there is one class only, or all numbers are equal.
    """
    shared = {
        "model": config.model,
        "columns": columns,
        "separator": config.separator,
        "max_length": config.max_length,
        "dtype": config.dtype,
    }
    state = _checkpoint_config(config.model)
    if kind == "causal-lm":
        if state.get("architectures") and not _is_language_model(state, config.model):
            raise InputError(
                f"causal-lm needs a causal language model and {config.model} is a {state['architectures'][0]}; "
                "for classes or numbers add --task classification or regression"
            )
        return Task(kind="causal-lm", head="lm", **shared)
    if columns.label is None:
        raise InputError(f"--label must name the column to learn for {kind}")
    labels = train[columns.label]
    classes = _classes(labels, config) if kind == "classification" else ()
    head = config.head or ("own" if _has_own_head(state, config.model, kind, len(classes)) else "mean")
    if head == "mean" and state.get("is_encoder_decoder"):
        raise InputError(
            f"{config.model} is an encoder-decoder, which mean pooling does not cover; add --head own"
        )
    if head == "own":
        classes = _in_order_of_head(classes, state)
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
        checkpoint_file(model, name) for name in ("modules.json", "1_Pooling/config.json")
    )
    return "separate" if is_sentence_encoder and head != "own" else "joint"


def _has_own_head(state: dict[str, Any], model: str, kind: str, classes: int) -> bool:
    """Whether the checkpoint was saved with a sequence classification head of the right size, or is a decoder."""
    if _is_language_model(state, model):
        return True
    architectures = " ".join(state.get("architectures") or [])
    outputs = len(state.get("id2label") or {0: "", 1: ""})
    return "ForSequenceClassification" in architectures and outputs == (
        classes if kind == "classification" else 1
    )


def comes_whole(task: Task) -> bool:
    """Whether the checkpoint can do the task without training: it needs no head, or was saved with one."""
    if task.head in ("cosine", "lm"):
        return True
    architectures = " ".join(_checkpoint_config(task.model).get("architectures") or [])
    return task.head == "own" and "ForSequenceClassification" in architectures


def _is_language_model(state: dict[str, Any], model: str) -> bool:
    architectures = " ".join(state.get("architectures") or [])
    return model.endswith(".gguf") or "ForCausalLM" in architectures or "LMHeadModel" in architectures


def _in_order_of_head(classes: tuple[str, ...], state: dict[str, Any]) -> tuple[str, ...]:
    """Classes in the order of the checkpoint's head, if it has the same names; upper and lower case do not matter."""
    names = [
        str(name).lower()
        for _, name in sorted((state.get("id2label") or {}).items(), key=lambda p: int(p[0]))
    ]
    own = {name.lower(): name for name in classes}
    return tuple(own[name] for name in names) if sorted(names) == sorted(own) else classes


def checkpoint_file(model: str, name: str) -> str | None:
    """The path of a file of a checkpoint, fetched from the hub if need be; None where it has no such file."""
    if Path(model).suffix == ".gguf":
        return None
    try:
        return cached_file(
            model,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise InputError(
            f"the model {model} cannot be loaded: {str(error).strip().splitlines()[0]}"
        ) from error


def _checkpoint_config(model: str) -> dict[str, Any]:
    """The checkpoint's config.json, empty where there is none (gguf)."""
    path = checkpoint_file(model, "config.json")
    if path is None:
        return {}
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"the model {model} cannot be loaded: {path} is not JSON") from error


def longest_input(model: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens that the model has positions for."""
    positions = _checkpoint_config(model).get("max_position_embeddings") or tokenizer.model_max_length
    return min(positions, tokenizer.model_max_length)
