"""Checks of a table's columns, and their cells as numbers or as labels. Rows in messages count from 1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from corefold.errors import InputError

MAX_ROWS_SHOWN = 5
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
NUMBER = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
NO_SCALARS: tuple[tuple[Any, str], ...] = (
    (list | tuple | set | np.ndarray, "a list"),
    (dict, "an object"),
    (bytes | bytearray | memoryview, "bytes"),
)
GAP_WORDS = {"", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "<NA>"}  # in a column of numbers


def column_list(table: pd.DataFrame) -> str:
    """The names of the columns, for messages."""
    return ", ".join(map(str, table.columns))


def require_columns(table: pd.DataFrame, names: Sequence[str], source: str) -> None:
    """Raise InputError for the first of `names` that is no column of the table."""
    for name in names:
        if name not in table.columns:
            raise InputError(f"{source} has no column {name!r}; it has {column_list(table)}")


def require_filled(column: pd.Series, source: str) -> None:
    """Raise InputError for the first cell that is missing."""
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise InputError(
            f"{source}, row {row_number(column, missing[0])}: column {column.name!r} is empty "
            f"({len(missing)} such rows)"
        )


def empty_cells(column: pd.Series) -> Bool[np.ndarray, " rows"]:
    """Where cells are missing, or texts of nothing but blanks."""
    missing = column.isna().to_numpy(dtype=bool)
    blank = [isinstance(cell, str) and not cell.strip() for cell in column.tolist()]
    return missing | np.array(blank, dtype=bool)


def require_text(column: pd.Series, source: str) -> None:
    """Raise InputError for the first cell that is missing or holds nothing but blanks."""
    empty = np.flatnonzero(empty_cells(column))
    if len(empty):
        raise InputError(
            f"{source}, row {row_number(column, empty[0])}: column {column.name!r} is empty "
            f"({len(empty)} such rows{_more_rows(column, empty)})"
        )


def _more_rows(column: pd.Series, places: np.ndarray) -> str:
    if len(places) < 2:
        return ""
    shown = ", ".join(str(row_number(column, place)) for place in places[:MAX_ROWS_SHOWN])
    return f": {shown}{', ...' if len(places) > MAX_ROWS_SHOWN else ''}"


def row_number(column: pd.Series, place: int) -> int:
    """The number of a row for people.

    The index of a table as read, of a chunk of it and of rows drawn from it counts the rows of the source from 0.
    """
    counts = pd.api.types.is_integer_dtype(column.index.dtype)
    return int(column.index[place] if counts else place) + 1


def require_scalars(column: pd.Series, source: str) -> None:
    """Raise InputError for the first cell that is no single value: a list, an object or bytes."""
    if column.dtype != object and not isinstance(column.dtype, pd.ArrowDtype):
        return
    for place, cell in enumerate(column.tolist()):
        kind = next((name for types, name in NO_SCALARS if isinstance(cell, types)), None)
        if kind is not None:
            raise InputError(
                f"{source}, row {row_number(column, place)}: column {column.name!r} holds {kind}; expected a text "
                "or a number in each cell"
            )


def text_cells(column: pd.Series, source: str) -> pd.Series:
    """The cells of a column as strings.

    Raises:
        InputError: a text that is no Unicode.
    """
    cells = [str(cell) for cell in column.tolist()]
    for place, cell in enumerate(cells):
        try:
            cell.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{source}, row {row_number(column, place)}: column {column.name!r} holds half of a surrogate pair, "
                f"{cell[error.start]!r}, which is no letter; remove it"
            ) from error
    return pd.Series(cells, index=column.index, name=column.name, dtype=str)


def as_number(cell: object) -> float | None:
    """The number that a cell is or spells, None where it is a word, a truth value or nothing."""
    if isinstance(cell, str):
        return float(cell) if NUMBER.fullmatch(cell) else None
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, Real | Decimal):
        return None
    try:
        number = float(cell)
    except OverflowError:  # an int of hundreds of digits
        number = np.inf
    return None if np.isnan(number) else number


def finite_numbers(column: pd.Series, source: str) -> pd.Series:
    """The cells of a column as floats; a truth value is 0 or 1.

    Raises:
        InputError: a cell that is missing, infinite or no number.
    """
    numbers = [
        float(cell) if isinstance(cell, bool | np.bool_) else as_number(cell) for cell in column.tolist()
    ]
    for place, number in enumerate(numbers):
        if number is None or not np.isfinite(number):
            cell = column.iloc[place]
            comma = isinstance(cell, str) and DECIMAL_COMMA.fullmatch(cell)
            raise InputError(
                f"{source}, row {row_number(column, place)}: {cell!r} in column {column.name!r} is not a finite number"
                + ("; write numbers with a decimal point" if comma else "")
            )
    return pd.Series(numbers, index=column.index, name=column.name, dtype=float)


def numbers_with_gaps(column: pd.Series, source: str) -> Float[np.ndarray, " rows"]:
    """The cells of a column as floats, NaN where a cell is missing or holds one of `GAP_WORDS`.

    Raises:
        InputError: a cell that is infinite, or another word.
    """
    values, gaps = parse_numbers(column)
    for bad, fault in ((np.isnan(values) & ~gaps, "is not a number"), (np.isinf(values), "is infinite")):
        if bad.any():
            row = int(bad.argmax())
            raise InputError(
                f"{source}, row {row + 1}: {str(column.iloc[row])!r} in column {column.name!r} {fault}"
            )
    return values


def parse_numbers(column: pd.Series) -> tuple[Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """The numbers of a column, NaN where there is none, and where the column has a gap."""
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return values, np.isnan(values)
    text = column.astype(str).str.strip()
    gaps = (column.isna() | text.isin(GAP_WORDS)).to_numpy()
    return pd.to_numeric(text.mask(gaps), errors="coerce").to_numpy(np.float64), gaps


def label_text(label: object) -> str:
    """A label as text: strings as they are, 1.0 as "1", true as "True".

    Files that were written by way of pandas hold whole numbers beside a gap as floats.
    """
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
