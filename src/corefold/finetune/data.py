"""The rows that a run trains and evaluates on: columns found, cells checked, rows drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from corefold.errors import InputError
from corefold.finetune.config import RunConfig
from corefold.tables.columns import column_list, require_columns, require_filled

MAX_CLASSES = 50


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


def find_columns(config: RunConfig, table: pd.DataFrame) -> Columns:
    """The columns that the settings name, or the usual names of causal-lm data.

    Raises:
        InputError: a column is not set or not in the table.
    """
    text, label = config.text, config.label
    if text is None and config.task in (None, "causal-lm"):
        usual = ("prompt", "completion") if {"prompt", "completion"} <= {*table.columns} else ("text", label)
        if usual[0] in table.columns and (config.task == "causal-lm" or usual[0] == "prompt"):
            text, label = usual[0], label or usual[1]
    if text is None:
        raise InputError(f"--text must name the column of the text; {config.train} has {column_list(table)}")
    columns = Columns(text, config.text_pair, label)
    require_columns(table, columns.names(), config.train)
    return columns


def guess_task(labels: pd.Series) -> Literal["classification", "regression"]:
    """Regression for numbers with fractions or more than 50 values; classification for everything else."""
    if not pd.api.types.is_numeric_dtype(labels) or pd.api.types.is_bool_dtype(labels):
        return "classification"
    whole = bool(np.all(np.equal(np.mod(labels.dropna(), 1), 0)))
    return "classification" if whole and labels.nunique() <= MAX_CLASSES else "regression"


def clean(
    table: pd.DataFrame, columns: Columns, clean_labels: Callable[[pd.Series, str], pd.Series], source: str
) -> pd.DataFrame:
    """The columns of a run: texts as str, and labels as `clean_labels` of the kind of task makes them.

    Raises:
        InputError: a missing or unusable value; its row is named.
    """
    require_columns(table, columns.names(), source)
    table = table.reset_index(drop=True)
    for name in columns.names():
        require_filled(table[name], source)
    cleaned = {name: table[name].astype(str) for name in columns.names()}
    if columns.label is not None:
        cleaned[columns.label] = clean_labels(table[columns.label], source)
    return pd.DataFrame(cleaned)


def draw(
    table: pd.DataFrame, count: int | None, seed: int, stratify: str | None, source: str
) -> pd.DataFrame:
    """`count` rows drawn by `seed`, in a random order; classes of column `stratify` in proportion.

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
    return table.iloc[rng.permutation(chosen)].reset_index(drop=True)


def split_off(table: pd.DataFrame, seed: int, source: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Four fifths of the rows to train on and one fifth to evaluate on, drawn by `seed`."""
    if len(table) < 5:
        raise InputError(f"{source} has {len(table)} rows, too few to hold out a fifth; give --eval")
    order = np.random.default_rng(seed).permutation(len(table))
    cut = len(table) // 5
    return table.iloc[order[cut:]].reset_index(drop=True), table.iloc[order[:cut]].reset_index(drop=True)
