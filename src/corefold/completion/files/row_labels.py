"""Which column of a wide table holds the labels of its rows."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from corefold.errors import InputError
from corefold.tables.arrow_tables import INDEX
from corefold.tables.columns import label_text
from corefold.tables.number_cells import Numbers

UNNAMED = "Unnamed:"  # pandas' name, with a number behind it, for a column without one
KEYS = {"id", "ids", "key", "index", "idx", "date", "uuid", "guid"}
MOMENTS = {"time", "timestamp", "datetime", "year", "month", "week", "day", "hour", "no", "nr", "row", "#"}
# "userId", "user_id" and "PatientID", and none of "paid", "humid" and "valid"
ID_NAME = re.compile(r".*([_\-. ][iI][dD]|[a-z0-9]I[dD])")
CHANGE = "--row NAME names another one, --drop NAME leaves a column out"


@dataclass(frozen=True)
class RowLabels:
    """The choice of a column.

    Attributes:
        place: of the column; None where no column holds labels.
        note: the guess, for the user.
    """

    place: int | None
    note: str | None = None


def find_row_labels(numbers: Numbers) -> RowLabels:
    """The column of row labels of a wide table without a named one.

    It is the index in a file of pandas, a first column without a name, as pandas and R write it, a column of keys by
    its name, the first one of words, or a first column of whole numbers that are all different.
    """
    table, words = numbers.table, numbers.words()
    names = [str(name) for name in table.columns]
    if names[0].startswith(f"{UNNAMED} 0") or names[0] in table.attrs.get(INDEX, ()):
        return RowLabels(0)
    for place, name in enumerate(names):
        if place not in numbers.bad and _is_key(name, numbers.values[:, place], first=place == 0):
            return _found(numbers, place, f"by its name and its {len(table):,} different numbers")
    if words:
        place = next((each for each in words if table.iloc[:, each].is_unique), words[0])
        return _found(numbers, place, "because its cells are words")
    if 0 not in numbers.bad and _counts_rows(numbers):
        return _found(numbers, 0, f"because they are {len(table):,} different whole numbers")
    return RowLabels(None)


def _found(numbers: Numbers, place: int, why: str) -> RowLabels:
    name = str(numbers.table.columns[place])
    note = f"{numbers.source}: column {name!r} is read as the labels of the rows, {why}; {CHANGE}"
    return RowLabels(place, note + ", --row none takes all columns as data")


def _is_key(name: str, values: Float[np.ndarray, " rows"], first: bool) -> bool:
    """Whether a column of numbers has the name of a key, and no number twice.

    A first column of whole numbers may have some twice under the names that stand for nothing but keys.
    """
    word = name.strip().lower()
    if not (word in KEYS or ID_NAME.fullmatch(name.strip()) or (first and word in MOMENTS)):
        return False
    if np.isnan(values).any():
        return False
    return len(np.unique(values)) == len(values) or (first and word in KEYS and _whole(values))


def _whole(values: Float[np.ndarray, " rows"]) -> bool:
    return bool((np.isfinite(values) & (values == np.floor(values))).all())


def _counts_rows(numbers: Numbers) -> bool:
    """Whether the first column is of different whole numbers, in order or among columns that are not of that kind."""
    values = numbers.values
    first = values[:, 0]
    if values.shape[1] < 2 or len(first) < 2 or not _whole(first) or len(np.unique(first)) < len(first):
        return False
    steps = np.diff(first)
    if (steps > 0).all() or (steps < 0).all():
        return True
    alike = 0
    for column in values[:, 1:].T:
        filled = column[~np.isnan(column)]
        alike += _whole(filled) and len(np.unique(filled)) == len(filled)
    return 2 * alike <= values.shape[1] - 1


def label_index(column: pd.Series) -> pd.Index:
    """The labels of a column: text as it is, numbers and dates with their types, and a mixture as text."""
    if pd.api.types.infer_dtype(column, skipna=False).startswith("mixed"):
        # Numbers beside words have no order, and parquet has no room for both.
        column = column.map(label_text)
    return pd.Index(column)


def require_words_left_out(names: list[str], source: str) -> None:
    """Raise InputError for columns of words beside the labels."""
    if names:
        shown = ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
        drops = " ".join(f"--drop {name!r}" if " " in name else f"--drop {name}" for name in names[:5])
        raise InputError(
            f"{source}: cells of {shown} are words, not numbers; leave them out with {drops}, or take one as the "
            "labels of the rows with --row; if each row of the file is one entry, name its columns with --row, --col "
            "and --value"
        )
