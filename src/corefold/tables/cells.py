"""Cells as they go into text, JSON and sheets."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from corefold.errors import InputError

ABSENT = object()  # in the place of a cell that a row of JSON does not have


def delimited_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The table with lists, objects and dates as text; all other cells pandas writes by itself."""
    changed = {}
    for name in table.columns:
        column = _in_single_precision(table[name])
        if isinstance(column.dtype, pd.ArrowDtype) or column.dtype == object:
            cells = [plain_cell(value) for value in column.tolist()]
            changed[name] = pd.Series(cells, index=column.index, dtype=object)
        elif column.dtype != table[name].dtype:
            changed[name] = column
    return table.assign(**changed) if changed else table  # A large table of numbers is not copied.


def _in_single_precision(column: pd.Series) -> pd.Series:
    """A column of Arrow's single precision as one of numpy's, whose numbers know how many digits they have."""
    return column.astype(np.float32) if str(column.dtype) == "float[pyarrow]" else column


def plain_cell(value: Any) -> Any:
    """A cell for csv: lists and objects as JSON, dates as ISO 8601, a gap as None, all else as it is.

    Raises:
        InputError: bytes, which are no text.
    """
    if isinstance(value, list | tuple | dict | np.ndarray):
        return json.dumps(value, ensure_ascii=False, default=json_value)
    if isinstance(value, datetime | date | time):
        return value.isoformat(*(" ",) if isinstance(value, datetime) else ())
    if isinstance(value, bytes):
        return json_value(value)
    return None if _is_gap(value) else value


def json_cells(column: pd.Series) -> list[Any]:
    """The cells of a column for JSON: a gap is None, and in a column of objects NaN stands for no cell at all."""
    gap = ABSENT if column.dtype == object else None
    column = _in_single_precision(column)
    if column.dtype == np.float32:
        column = column.astype(str).astype(float)  # the shortest number that is this one in single precision
    return [gap if _is_nan(value) else None if _is_gap(value) else value for value in column.tolist()]


def _is_gap(value: Any) -> bool:
    return value is pd.NA or value is pd.NaT


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def json_value(value: Any) -> Any:
    """A value that JSON has no type for, as one that it has.

    Raises:
        InputError: bytes, which are no text.
    """
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta() | Decimal():
            return str(value)
        case np.ndarray() | np.generic():
            return value.tolist()
        case bytes():
            raise InputError("a column holds bytes, which are no text; write .parquet")
        case _:
            return None if pd.isna(value) else str(value)
