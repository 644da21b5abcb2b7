"""The rows of a run, before there is a model: tables read, rows drawn and encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from corefold.errors import InputError
from corefold.finetune import data
from corefold.finetune.checkpoint import POOLING, Checkpoint
from corefold.finetune.config import RunConfig
from corefold.finetune.continuing import task_of_run
from corefold.finetune.evaluation.splits import PARTS, Split, coverage_notes, folds, hold_out
from corefold.finetune.loading import load_tokenizer
from corefold.finetune.method import Decided, Method, decide
from corefold.finetune.saving import HEAD
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import KINDS, choose_kind, kind_of, make_task
from corefold.tables.digest import table_digest
from corefold.tables.lists import join_columns
from corefold.tables.reading import read_table


@dataclass(frozen=True)
class SourceTables:
    """The tables that the settings name, cleaned.

    Attributes:
        task: the task that they pose.
        train: all training rows.
        held_out: all rows to evaluate on; None for a fifth of `train`, which each seed draws anew.
        notes: a line for each guess, with the option that changes it.
    """

    task: Task
    train: pd.DataFrame
    held_out: pd.DataFrame | None
    notes: tuple[str, ...] = ()

    def digests(self) -> dict[str, str | None]:
        """The digests of all rows, by which a later process knows them again."""
        held_out = None if self.held_out is None else table_digest(self.held_out)
        return {"train": table_digest(self.train), "eval": held_out}


@dataclass(frozen=True)
class RunData:
    """Everything that a training run needs besides its model.

    Attributes:
        settings: the settings, nothing left open.
        task: the task.
        tokenizer: the tokenizer of the model.
        train: encoded training rows.
        eval: encoded rows to evaluate on; none where folds judge.
        selection: encoded rows, held out of the training rows, that choose the step to keep or to stop at.
        rows: the numbers of texts in `train` and `eval`, which may be read in several windows each.
        notes: a line for each decision that the user may want to change, with its option.
    """

    settings: Decided[Any]
    task: Task
    tokenizer: PreTrainedTokenizerBase
    train: list[dict[str, Any]]
    eval: list[dict[str, Any]]
    selection: list[dict[str, Any]] = field(default_factory=list)
    rows: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same settings with absolute paths.

    Raises:
        InputError: no model, no training data, or a revision of a model that has none.
    """

    def absolute(source: str | None) -> str | None:
        if source and Path(source).exists():
            return str(Path(source).absolute())
        folder, colon, split = (source or "").rpartition(":")  # of save_to_disk
        return f"{Path(folder).absolute()}:{split}" if colon and Path(folder).is_dir() else source

    if not config.model:
        raise InputError("--model is missing: a folder, a .gguf file or a name on the Hugging Face hub")
    if config.revision and Path(config.model).exists():
        raise InputError(
            f"--revision {config.revision} is of models on the hub, and {config.model} is on this disk"
        )
    if not config.train:
        raise InputError("--train is missing: a file of rows, as csv, jsonl or parquet, or a hub data set")
    return replace(
        config,
        model=absolute(config.model),
        train=absolute(config.train),
        eval=absolute(config.eval),
        from_run=absolute(config.from_run),
    )  # type: ignore[arg-type]


def read_tables(config: RunConfig) -> SourceTables:
    """Read and clean the tables that the settings name, and choose the task that they pose."""
    notes: list[str] = []
    table = join_columns(_read(config.train, config, notes), config.label, config.train)
    columns = data.find_columns(config, table, notes)
    name = choose_kind(config, table, columns, notes)
    kind = KINDS[name]
    train = kind.clean(table, columns, config.train)
    if kind.stratified and columns.label is not None:
        notes += data.label_notes(train[columns.label], config.train)
    task = task_of_run(config, columns, train) if config.from_run else make_task(config, name, columns, train)
    notes += _head_notes(config, task)
    held_out = None
    if config.eval is not None:
        held_out = kind.clean(_read(config.eval, config, notes), columns, config.eval)
    return SourceTables(task, train, held_out, tuple(dict.fromkeys(notes)))


def _head_notes(config: RunConfig, task: Task) -> list[str]:
    """Lines for the head and the reading of pairs, where the settings leave them open."""
    heads = {
        "own": "the model's own head for such a task, trained with the adapter",
        "mean": f"a new linear head on {task.pooling}-pooled tokens",
    }
    notes = []
    if task.head in ("mean", "cosine"):
        notes += _checkpoint_notes(Checkpoint.read(config.model, config.revision), task)
    if config.head is None and task.head in heads:
        notes.append(f"head {task.head}: {heads[task.head]}; --head changes that")
    if config.pair is None and task.pair is not None:
        how = "two embeddings" if task.pair == "separate" else "one input"
        notes.append(f"pair {task.pair}: two texts are read as {how}; --pair changes that")
    return notes


def _checkpoint_notes(checkpoint: Checkpoint, task: Task) -> list[str]:
    """Lines for the parts of a checkpoint that decide how it is read, or that are not read."""
    notes = []
    if task.pooling != "mean":
        notes.append(f"pooling {task.pooling}: as {POOLING} of {checkpoint.model} says")
    if checkpoint.unused_modules:
        listed = ", ".join(checkpoint.unused_modules)
        notes.append(f"modules.json of {checkpoint.model} has {listed} behind the pooling, which is not used")
    if task.head == "mean" and (Path(checkpoint.model) / HEAD).exists():
        notes.append(
            f"{checkpoint.model} is a run with a head of its own ({HEAD}), which is not used: a new head is drawn"
        )
    return notes


def _read(source: str, config: RunConfig, notes: list[str]) -> pd.DataFrame:
    return read_table(source, encoding=config.encoding, delimiter=config.delimiter, notes=notes)


def class_column(task: Task) -> str | None:
    """The column whose classes a draw of rows keeps in proportion; None where there are none."""
    return task.columns.label if kind_of(task).stratified else None


def draw_rows(config: RunConfig, tables: SourceTables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows to train and to evaluate on, drawn by the seed."""
    train, held_out = tables.train, tables.held_out
    if held_out is None:
        split = hold_out(len(train), classes_of(tables.task, train), config.seed, config.train)
        train, held_out = take(train, split)
    source = config.eval or config.train
    held_out = data.draw(held_out, config.eval_samples, config.seed, class_column(tables.task), source)
    return _draw_training_rows(config, tables.task, train), held_out


def rows_to_train(config: RunConfig, tables: SourceTables) -> int:
    """The number of rows to draw training rows from, which is the same for every seed."""
    if tables.held_out is not None:
        return len(tables.train)
    return len(
        hold_out(len(tables.train), classes_of(tables.task, tables.train), config.seed, config.train).train
    )


def draw_rows_for_folds(config: RunConfig, tables: SourceTables) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The rows to cut into folds, drawn by the seed; and the rows of `--eval` for the last model, if there are any."""
    if tables.held_out is not None:
        return draw_rows(config, tables)
    return _draw_training_rows(config, tables.task, tables.train), None


def folds_of(config: RunConfig, task: Task, train: pd.DataFrame) -> list[Split]:
    """The folds of the training rows."""
    return folds(len(train), classes_of(task, train), config.folds or 0, config.seed, config.train)


def _draw_training_rows(config: RunConfig, task: Task, train: pd.DataFrame) -> pd.DataFrame:
    classes = class_column(task)
    train = data.draw(train, config.samples, config.seed, classes, config.train)
    if classes is not None and train[classes].nunique() < 2:
        raise InputError(
            f"the {len(train)} training rows have one class only, {train[classes].iloc[0]!r}; draw more"
        )
    return train


def take(table: pd.DataFrame, split: Split) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that train and those that judge, with the numbers that they have in the source as their index."""
    return table.iloc[split.train], table.iloc[split.judged]


def classes_of(task: Task, table: pd.DataFrame) -> list[str] | None:
    """The class of each row, by which splits are stratified; None where there are no classes."""
    column = class_column(task)
    return None if column is None else table[column].tolist()


def class_notes(task: Task, train: pd.DataFrame, judged: pd.DataFrame) -> list[str]:
    """Lines for the classes without training rows or without rows to evaluate on."""
    trained, evaluated = classes_of(task, train), classes_of(task, judged)
    if trained is None or evaluated is None:
        return []
    return coverage_notes(task.classes, trained, evaluated)


def check_selection(config: RunConfig, rows: int) -> None:
    """Check that so many training rows are enough to hold some out by --keep best or --patience.

    Raises:
        InputError: too few.
    """
    if (config.keep == "best" or config.patience is not None) and rows < PARTS:
        raise InputError(
            f"--keep best and --patience hold out a fifth of the training rows, and there are {rows}; leave them out"
        )


def prepare_data(
    config: RunConfig, task: Task, train: pd.DataFrame, held_out: pd.DataFrame | None, method: Method[Any]
) -> RunData:
    """Decide the settings for these rows and encode them; texts longer than the model has positions for are cut."""
    settings, kind, selection = decide(config, task, len(train), method), kind_of(task), None
    if settings.selects:
        check_selection(config, len(train))
        train, selection = take(
            train, hold_out(len(train), classes_of(task, train), config.seed, config.train)
        )
        settings = decide(config, task, len(train), method)
    tokenizer = load_tokenizer(config.model, config.revision)
    kind.prepare_tokenizer(tokenizer)
    task = replace(
        task,
        max_length=min(
            task.max_length, Checkpoint.read(config.model, config.revision).longest_input(tokenizer)
        ),
    )

    def encoded(table: pd.DataFrame | None, source: str) -> list[dict[str, Any]]:
        return [] if table is None else kind.encode(task, tokenizer, table, source)

    data = RunData(
        settings,
        task,
        tokenizer,
        train=encoded(train, config.train),
        eval=encoded(held_out, config.eval or config.train),
        selection=encoded(selection, config.train),
        rows={"train": len(train), "eval": 0 if held_out is None else len(held_out)},
    )
    return replace(data, notes=tuple(_length_notes(data)))


def window_notes(windows: int, texts: int, longest: int) -> list[str]:
    """A line if there are more windows of `longest` tokens than texts."""
    if windows == texts:
        return []
    return [
        f"long texts are read in windows of {longest} tokens, {windows - texts} more than texts; an entity on a border "
        "counts as two"
    ]


def _length_notes(data: RunData) -> list[str]:
    """A line if texts are longer than the longest input."""
    longest, rows = data.task.max_length, [*data.train, *data.selection, *data.eval]
    texts = sum(data.rows.values())
    if lines := window_notes(len(data.train) + len(data.eval), texts, longest):
        return [f"{lines[0]}; --max-length changes that"]
    full = sum(len(row.get("first", row)["input_ids"]) >= longest for row in rows)
    if full:
        return [
            f"{full:,} of {len(rows):,} texts fill the {longest} tokens that are read, and what is longer is cut; "
            "--max-length changes that, up to the positions of the model"
        ]
    return []
