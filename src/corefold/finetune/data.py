"""Tables in, tables checked: the rows that a run trains and evaluates on."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from corefold.errors import InputError
from corefold.finetune.config import RunConfig

READERS = {
    ".csv": lambda path: _read_csv(path, ","),
    ".tsv": lambda path: _read_csv(path, "\t"),
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".parquet": pd.read_parquet,
}
MAX_CLASSES = 50


def _read_csv(path: Path, separator: str) -> pd.DataFrame:
    # Only an empty cell is missing: "None", "NA" and "null" are words, and may be classes.
    # Without index_col=False a row with a comma too many would shift all columns by one.
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, sep=separator, keep_default_na=False, na_values=[""], index_col=False)


@dataclass(frozen=True)
class Columns:
    """The columns that a run reads."""

    text: str
    text_pair: str | None = None
    label: str | None = None

    def names(self) -> list[str]:
        """Those that are set."""
        return [name for name in (self.text, self.text_pair, self.label) if name is not None]


def read_table(source: str) -> pd.DataFrame:
    """The rows of a csv, tsv, jsonl or parquet file, or of a hub data set `NAME[:CONFIG]:SPLIT`.

    Raises:
        InputError: not found, not readable or empty.
    """
    path = Path(source)
    if path.suffix.lower() in READERS or path.exists():
        if not path.exists():
            raise InputError(f"{source}: no such file")
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise InputError(f"{source}: expected one of {', '.join(READERS)}")
        try:
            table = reader(path)
        except (pd.errors.EmptyDataError, StopIteration) as error:
            raise InputError(f"{source} is empty; expected a header and rows") from error
        except pd.errors.ParserWarning as error:
            raise InputError(
                f"{source}: a row has more cells than the header; quote texts that hold commas"
            ) from error
        except (ValueError, OSError) as error:  # pandas and pyarrow raise subclasses of these
            raise InputError(f"{source} cannot be read: {str(error).splitlines()[0]}") from error
    else:
        table = _hub_table(source)
    if table.empty:
        raise InputError(f"{source} has no rows")
    return table


def _hub_table(source: str) -> pd.DataFrame:
    from datasets import Dataset, load_dataset

    name, *rest = source.split(":")
    if len(rest) not in (1, 2):
        raise InputError(f"{source}: no such file; a hub data set is written NAME:SPLIT or NAME:CONFIG:SPLIT")
    try:
        rows = load_dataset(name, *rest[:-1], split=rest[-1])
    except Exception as error:  # hub, network and builder errors share no base class
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{source}: neither a file nor a hub data set that loads: {first}") from error
    if not isinstance(rows, Dataset):
        raise InputError(f"{source} is not one split of a data set")
    table = rows.to_pandas()
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{source} is too large to read at once")
    return table


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
        raise InputError(f"--text must name the column of the text; {config.train} has {_listed(table)}")
    columns = Columns(text, config.text_pair, label)
    require_columns(table, columns.names(), config.train)
    return columns


def require_columns(table: pd.DataFrame, names: list[str], source: str) -> None:
    """Raise InputError for the first of `names` that is no column of the table."""
    for name in names:
        if name not in table.columns:
            raise InputError(f"{source} has no column {name!r}; it has {_listed(table)}")


def guess_task(labels: pd.Series) -> Literal["classification", "regression"]:
    """Regression for numbers with fractions or more than 50 values; classification for everything else."""
    if not pd.api.types.is_numeric_dtype(labels) or pd.api.types.is_bool_dtype(labels):
        return "classification"
    whole = bool(np.all(np.equal(np.mod(labels.dropna(), 1), 0)))
    return "classification" if whole and labels.nunique() <= MAX_CLASSES else "regression"


def clean(table: pd.DataFrame, columns: Columns, task: str, source: str) -> pd.DataFrame:
    """The columns of a run, texts as str, class labels as str, numbers as float.

    Raises:
        InputError: a missing or unusable value; its row is named.
    """
    require_columns(table, columns.names(), source)
    table = table.reset_index(drop=True)
    for name in columns.names():
        missing = table.index[table[name].isna()]
        if len(missing):
            raise InputError(
                f"{source}, row {missing[0] + 1}: column {name!r} is empty ({len(missing)} such rows)"
            )
    cleaned = {name: table[name].astype(str) for name in columns.names()}
    if columns.label is not None and task == "regression":
        cleaned[columns.label] = _numbers(table[columns.label], columns.label, source)
    elif columns.label is not None and task == "classification":
        cleaned[columns.label] = table[columns.label].map(_class_name)
    return pd.DataFrame(cleaned)


def _numbers(values: pd.Series, name: str, source: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{source}, row {row + 1}: label {values.iloc[row]!r} in {name!r} is not a finite number"
        )
    return numbers


def _class_name(label: object) -> str:
    # pandas reads a column of 0 and 1 with a gap as 0.0 and 1.0; the class is still "0" or "1".
    if isinstance(label, float) and math.isfinite(label) and label == int(label):
        return str(int(label))
    return str(label)


def draw(
    table: pd.DataFrame, count: int | None, seed: int, stratify: str | None, source: str
) -> pd.DataFrame:
    """`count` rows drawn by `seed`, in a random order; classes of column `stratify` in proportion.

    Raises:
        InputError: more rows wanted than there are.
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
    """Four fifths to train on and one to evaluate on, drawn by `seed`."""
    if len(table) < 5:
        raise InputError(f"{source} has {len(table)} rows, too few to hold out a fifth; give --eval")
    order = np.random.default_rng(seed).permutation(len(table))
    cut = len(table) // 5
    return table.iloc[order[cut:]].reset_index(drop=True), table.iloc[order[:cut]].reset_index(drop=True)


def _listed(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table.columns))
