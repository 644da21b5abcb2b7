"""The task of a run: everything besides weights that prediction needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from corefold.finetune.config import Kept, Pair, TaskName
from corefold.finetune.data import Columns
from corefold.tables.atomic import write_json


@dataclass(frozen=True)
class Task:
    """Everything besides weights that prediction needs; saved beside the adapter as task.json.

    Attributes:
        kind: the name of the kind of task, a key of `corefold.finetune.tasks.KINDS`.
        model: the base model, as the settings name it.
        head: "own" (the model's sequence classification head), "mean" (a linear head on pooled tokens),
            "cosine" (no head: the cosine of two embeddings) or "lm".
        columns: the columns of the tables that are read.
        pair: how two texts are combined; None for one text.
        classes: names of the classes, in the order of the outputs.
        shift, scale: a regression target is shift + scale * output.
        separator: between prompt and completion.
        max_length: longest input, in tokens.
        dtype: precision of the base model.
        revision: branch, tag or commit of the base model on the hub.
        load_in_4bit: whether the base model is quantized while it loads.
        base_digest: of the base model's weights, by `models.weights_digest`; empty in runs of version 0.1.0.
        threshold: the probability from which a label is predicted (multi-label).
        pooling: how tokens become one embedding where the head is "mean" or "cosine": a mode of
            sentence-transformers' `Pooling`, as the files of a sentence encoder say.
        kept: the weights in the folder of the run: those of an adapter, of the whole model, or of its head alone.
    """

    kind: TaskName
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
    revision: str | None = None
    load_in_4bit: bool = False
    base_digest: str = ""
    threshold: float = 0.5
    kept: Kept = "adapter"
    pooling: str = "mean"

    @property
    def outputs(self) -> int:
        """Numbers that the head returns for a row."""
        return len(self.classes) or 1

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read what `save` wrote."""
        state = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**state, "columns": Columns(**state["columns"]), "classes": tuple(state["classes"])})
