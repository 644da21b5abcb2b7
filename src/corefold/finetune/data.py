"""The rows that a run trains and evaluates on: columns found, cells checked, rows drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from corefold.errors import InputError
from corefold.finetune.config import RunConfig, TaskName
from corefold.tables.columns import (
    DECIMAL_COMMA,
    as_number,
    column_list,
    empty_cells,
    label_text,
    require_columns,
    require_scalars,
    require_text,
    text_cells,
)
from corefold.tables.lists import empty_lists, join_columns

MAX_CLASSES = 50
CODE = re.compile(r"\s*[+-]?0[0-9]+\s*")  # digits behind a zero, as in 007, are a name
CHAT = "messages"  # the usual name of chat's column
CAUSAL = ("prompt", "completion")  # the usual names of causal-lm's columns


@dataclass(frozen=True)
class Columns:
    """The columns that a run reads."""

    text: str
    text_pair: str | None = None
    label: str | None = None

    def names(self) -> list[str]:
        """The names that are set."""
        return [name for name in (self.text, self.text_pair, self.label) if name is not None]

    def without_label(self) -> Columns:
        """The columns of the texts alone."""
        return Columns(self.text, self.text_pair)


MATCHES = Columns("anchor", "positive", "negative")  # the usual names of embedding's columns


def find_columns(config: RunConfig, table: pd.DataFrame, notes: list[str] | None = None) -> Columns:
    """The columns that the settings name, or the usual names of causal-lm, chat and embedding data.

    Args:
        config: the settings.
        table: the training rows.
        notes: a list that gets a line if the columns were guessed.

    Raises:
        InputError: a column is not set or not in the table.
    """
    text, label = config.text, config.label
    if text is None and config.task in (None, "causal-lm"):
        usual = CAUSAL if {*CAUSAL} <= {*table.columns} else ("text", label)
        if usual[0] in table.columns and (config.task == "causal-lm" or usual[0] == CAUSAL[0]):
            text, label = usual[0], label or usual[1]
            if notes is not None:
                names = f"--prompt {text}" + (f" --completion {label}" if label else "")
                notes.append(f"columns: {names}, by their names; these options change that")
    if text is None and config.task in (None, "chat") and CHAT in table.columns and label is None:
        text = CHAT
        if notes is not None:
            notes.append(f"columns: --text {text}, by its name; this option changes that")
    if text is None and (matches := _matches(config, table)):
        if notes is not None:
            names = zip(("--text", "--text-pair", "--label"), matches.names(), strict=False)
            notes.append(
                f"columns: {' '.join(map(' '.join, names))}, by their names; these options change that"
            )
        return matches
    if text is None:
        raise InputError(f"--text must name the column of the text; {config.train} has {column_list(table)}")
    columns = Columns(text, config.text_pair, label)
    require_columns(table, columns.names(), config.train)
    return columns


def _matches(config: RunConfig, table: pd.DataFrame) -> Columns | None:
    """The usual columns of embedding data, where the table has them and the settings name no other column or task."""
    named = config.label is not None or config.text_pair is not None
    if named or config.task not in (None, "embedding"):
        return None
    if not {*MATCHES.without_label().names()} <= {*table.columns}:
        return None
    return MATCHES if MATCHES.label in table.columns else MATCHES.without_label()


def choose_task(
    config: RunConfig,
    table: pd.DataFrame,
    columns: Columns,
    is_language_model: Callable[[], bool],
    notes: list[str] | None = None,
) -> TaskName:
    """The task that the settings name, or the one that model, columns and labels suggest.

    Args:
        config: the settings.
        table: the training rows, as read.
        columns: the columns of the run.
        is_language_model: whether the model continues texts; asked only if that decides.
        notes: a list that gets a line if the task was guessed.

    Raises:
        InputError: no column of labels, or one whose cells are no single values.
    """
    if config.task is not None:
        return config.task
    if columns.label is None:
        raise InputError(
            "--label must name the column to learn; to learn the text itself, add --task causal-lm, and to find "
            "--text-pair by --text, --task embedding"
        )
    labels = table[columns.label]
    require_scalars(labels, config.train)
    if (columns.text, columns.label) == CAUSAL and is_language_model():
        kind, reason = "causal-lm", f"a language model writes {CAUSAL[1]!r} behind {CAUSAL[0]!r}"
    else:
        kind, reason = _task_of_labels(labels, len(table))
    if notes is not None:
        notes.append(f"task {kind}: {reason}; --task changes that")
    return kind


def _task_of_labels(labels: pd.Series, rows: int) -> tuple[TaskName, str]:
    """The task that labels suggest, and the reason in words."""
    different, name = len({label_text(cell) for cell in labels.dropna().tolist()}), labels.name
    numbers = _numbers(labels)
    if numbers is None:
        if different > max(MAX_CLASSES, rows // 2):
            return "causal-lm", f"{name!r} holds {different:,} different texts in {rows:,} rows"
        return "classification", f"{name!r} holds {different:,} classes"
    if guess_task(labels) == "classification":
        return "classification", f"the {different:,} whole numbers in {name!r} are read as names of classes"
    if all(number.is_integer() for number in numbers):
        return (
            "regression",
            f"the {different:,} whole numbers in {name!r} are read as amounts, since they are more than {MAX_CLASSES}",
        )
    return "regression", f"{name!r} holds numbers with fractions"


def _numbers(labels: pd.Series) -> set[float] | None:
    """The different numbers of a column, None if one of its cells is no number."""
    numbers = {as_number(cell) for cell in labels.dropna().unique().tolist()}
    return None if None in numbers else numbers  # type: ignore[return-value]


def guess_task(labels: pd.Series) -> Literal["classification", "regression"]:
    """Regression for numbers with fractions or more than 50 values; classification for everything else.

    Texts that spell numbers count as numbers, except if one has a zero in front: such digits are names.
    """
    numbers = _numbers(labels)
    if numbers is None or any(
        isinstance(each, str) and CODE.fullmatch(each) for each in labels.unique().tolist()
    ):
        return "classification"
    whole = all(number.is_integer() for number in numbers)
    return "classification" if whole and len(numbers) <= MAX_CLASSES else "regression"


def label_notes(labels: pd.Series, source: str) -> list[str]:
    """Lines if two classes differ only in how they are written, or if numbers with a comma are read as classes."""
    names, notes = sorted(labels.unique().tolist()), []
    for what, key in (("by blanks or case", _without_case), ("in how a number is written", _spelled_number)):
        alike: dict[object, str] = {}
        pairs = ((alike.setdefault(key(name), name), name) for name in names)
        if pair := next((pair for pair in pairs if pair[0] != pair[1]), None):
            notes.append(
                f"{source}: the classes {pair[0]!r} and {pair[1]!r} differ only {what} and count as two; make "
                "them equal in the file if they mean the same"
            )
    commas = [name for name in names if DECIMAL_COMMA.fullmatch(name)]
    if commas and all(isinstance(_spelled_number(name), float) for name in names):
        notes.append(
            f"{source}: {commas[0]!r} and the other labels are numbers with a decimal comma and are read as names of "
            "classes; for amounts write a decimal point"
        )
    return notes


def _without_case(name: str) -> str:
    return name.strip().casefold()


def _spelled_number(name: str) -> float | str:
    """The number that a class's name spells, with a point or a comma; the name itself where it is a code or a word."""
    number = None if CODE.fullmatch(name) else as_number(name.replace(",", ".", 1))
    return name if number is None else number


def empty_rows(table: pd.DataFrame, columns: Columns) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a text is missing, holds nothing but blanks, or is an empty list: there is nothing to predict from."""
    texts = [table[name] for name in columns.without_label().names()]
    return np.logical_or.reduce([empty_cells(text) | empty_lists(text) for text in texts])


def as_text(column: pd.Series, source: str) -> pd.Series:
    """Cells as str.

    Raises:
        InputError: a cell that is no single value, or no Unicode.
    """
    require_scalars(column, source)
    return text_cells(column, source)


def clean(
    table: pd.DataFrame,
    columns: Columns,
    clean_labels: Callable[[pd.Series, str], pd.Series],
    source: str,
    clean_texts: Callable[[pd.Series, str], pd.Series] = as_text,
) -> pd.DataFrame:
    """The columns of a run: texts and labels as `clean_texts` and `clean_labels` of the kind of task make them.

    Strings stay as they are, and a number becomes the text of that number.

    Args:
        table: rows as read; a range as its index counts the rows of the source from 0, for messages.
        columns: the columns of the run.
        clean_labels: from the cells of the label column, of which none is missing, and the source to labels.
        source: the file, for messages.
        clean_texts: the same for the text columns.

    Raises:
        InputError: a missing or unusable value; its row is named.
    """
    table = join_columns(table, columns.label, source)
    require_columns(table, columns.names(), source)
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index(drop=True)
    for name in columns.names():
        require_text(table[name], source)
    cleaned = {name: clean_texts(table[name], source) for name in columns.without_label().names()}
    if columns.label is not None:
        cleaned[columns.label] = clean_labels(table[columns.label], source)
    return pd.DataFrame(cleaned)


def draw(
    table: pd.DataFrame, count: int | None, seed: int, stratify: str | None, source: str
) -> pd.DataFrame:
    """`count` rows drawn by `seed`, in a random order; classes of column `stratify` in proportion.

    They keep their index, which counts the rows of the source.

    Raises:
        InputError: `count` is larger than the table.
    """
    if count is None:
        return table
    if count > len(table):
        raise InputError(
            f"{count} rows wanted but {source} has {len(table)}; lower --samples or --eval-samples"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(table))
    if stratify is not None:
        # Row i of a class of n gets the place (i + random) / n: any prefix then holds the classes in proportion.
        place = np.empty(len(table))
        for rows in table.iloc[order].groupby(stratify, sort=True).indices.values():
            place[order[rows]] = (np.arange(len(rows)) + rng.random()) / len(rows)
        order = np.argsort(place, kind="stable")
    chosen = order[:count]
    return table.iloc[rng.permutation(chosen)]
