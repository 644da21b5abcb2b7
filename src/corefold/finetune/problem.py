"""What a run trains on, before there is a model: tables read, rows drawn and encoded, settings decided."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from corefold.errors import InputError
from corefold.finetune import data
from corefold.finetune.config import RunConfig
from corefold.finetune.encoding import encode
from corefold.finetune.methods import HEAD_RATE, Method
from corefold.finetune.models import load_tokenizer
from corefold.finetune.task import Task, choose_kind, longest_input, make_task
from corefold.tables.reading import read_table

PASSES, MIN_STEPS, MAX_STEPS = 10, 100, 500  # of a run whose steps are not set


@dataclass(frozen=True)
class Tables:
    """The rows that settings name, cleaned.

    Attributes:
        task: what is learned from them.
        train: all training rows.
        held_out: all rows to evaluate on; None: a fifth of `train`, which each seed draws anew.
    """

    task: Task
    train: pd.DataFrame
    held_out: pd.DataFrame | None


@dataclass(frozen=True)
class Rows:
    """Encoded rows."""

    train: list[dict[str, Any]]
    eval: list[dict[str, Any]]


@dataclass(frozen=True)
class Problem:
    """A run before it has a model.

    Attributes:
        config: the settings, nothing left open.
        task: what is learned.
        tokenizer: of the model.
        rows: drawn and encoded.
    """

    config: RunConfig
    task: Task
    tokenizer: PreTrainedTokenizerBase
    rows: Rows


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same settings, paths no longer relative to anything.

    Raises:
        InputError: no model or no training data.
    """

    def absolute(source: str | None) -> str | None:
        return str(Path(source).absolute()) if source and Path(source).exists() else source

    if not config.model:
        raise InputError("--model is missing: a folder, a .gguf file or a name on the Hugging Face hub")
    if not config.train:
        raise InputError("--train is missing: a csv, tsv, jsonl or parquet file, or a hub data set")
    return replace(
        config, model=absolute(config.model), train=absolute(config.train), eval=absolute(config.eval)
    )  # type: ignore[arg-type]


def read_tables(config: RunConfig) -> Tables:
    """Read and clean the tables that the settings name, and see what is to be learned."""
    table = read_table(config.train)
    columns = data.find_columns(config, table)
    kind = choose_kind(config, table, columns)
    train = data.clean(table, columns, kind, config.train)
    task, held_out = make_task(config, kind, columns, train), None
    if config.eval is not None:
        held_out = data.clean(read_table(config.eval), columns, kind, config.eval)
    return Tables(task, train, held_out)


def draw_rows(config: RunConfig, tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows to train and to evaluate on, drawn by the seed."""
    train, held_out, classes = tables.train, tables.held_out, tables.task.stratify
    if held_out is None:
        train, held_out = data.split_off(train, config.seed, config.train)
    train = data.draw(train, config.samples, config.seed, classes, config.train)
    held_out = data.draw(held_out, config.eval_samples, config.seed, classes, config.eval or config.train)
    if classes is not None and train[classes].nunique() < 2:
        raise InputError(
            f"the {len(train)} training rows have one class only, {train[classes].iloc[0]!r}; draw more"
        )
    return train, held_out


def decided(config: RunConfig, task: Task, rows: int, method: Method) -> RunConfig:
    """The settings, with what they leave open chosen for this task, number of training rows and method."""
    steps = config.steps or default_steps(rows, config.batch_size)
    config = config.filled(steps=steps)
    config = config.filled(**method.shape(config))
    config = config.filled(weight_decay=method.decay(config, task))
    return config.filled(
        task=task.kind,
        text=task.columns.text,
        label=task.columns.label,
        pair=task.pair,
        head=task.head if task.head in ("own", "mean") else None,
        lr=method.rate(config, task, rows),
        head_lr=HEAD_RATE,
        checkpoint_every=max(1, steps // 10),
    )


def default_steps(rows: int, batch_size: int) -> int:
    """Ten passes over the rows, within bounds."""
    return min(MAX_STEPS, max(MIN_STEPS, PASSES * math.ceil(rows / batch_size)))


def encoded(config: RunConfig, task: Task, train: pd.DataFrame, held_out: pd.DataFrame) -> Problem:
    """The problem that these rows pose; texts longer than the model has positions for are cut."""
    tokenizer = load_tokenizer(config.model)
    task = replace(task, max_length=min(task.max_length, longest_input(config.model, tokenizer)))
    rows = Rows(
        encode(task, tokenizer, train, config.train),
        encode(task, tokenizer, held_out, config.eval or config.train),
    )
    return Problem(config, task, tokenizer, rows)
