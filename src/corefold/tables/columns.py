"""Checks of a table's columns, and their cells as numbers or as labels. Rows in messages count from 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from corefold.errors import InputError

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
            f"{source}, row {missing[0] + 1}: column {column.name!r} is empty ({len(missing)} such rows)"
        )


def finite_numbers(column: pd.Series, source: str) -> pd.Series:
    """The cells of a column as floats.

    Raises:
        InputError: a cell that is missing, infinite or no number.
    """
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        value = column.iloc[bad[0]]
        raise InputError(
            f"{source}, row {bad[0] + 1}: {value!r} in column {column.name!r} is not a finite number"
        )
    return numbers


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
    """A label as text, and 1.0 as "1": pandas reads whole numbers beside a gap as floats."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
