"""Matrices from tables: a row for each entry, or a wide table with gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Int

from corefold.completion.files.labelled import LabelledMatrix, checked_entries
from corefold.errors import InputError
from corefold.tables.columns import (
    label_text,
    numbers_with_gaps,
    parse_numbers,
    require_columns,
    require_filled,
)

HINT = "if each row of the file is one entry, name its columns with --row, --col and --value"
UNNAMED = "Unnamed:"  # pandas' name, with a number behind it, for a column without one


def matrix_of_entries(table: pd.DataFrame, names: tuple[str, str, str], source: str) -> LabelledMatrix:
    """The matrix of a table with an entry in each row.

    Args:
        table: the entries.
        names: the columns of row labels, of column labels and of values.
        source: the file, for messages.

    Raises:
        InputError: a column that is missing or named twice, an empty label or a value that is no number.
    """
    if len(set(names)) < 3:
        raise InputError(f"--row, --col and --value name three columns; got {', '.join(names)}")
    require_columns(table, names, source)
    (row_of, rows), (column_of, columns) = (_codes(table[name], source) for name in names[:2])
    values = numbers_with_gaps(table[names[2]], source)
    present = ~np.isnan(values)  # a label whose values are all missing still gets its row or column
    X = (row_of[present], column_of[present], values[present])
    return LabelledMatrix(source, checked_entries(X, source, (len(rows), len(columns))), rows, columns, names)


def _codes(labels: pd.Series, source: str) -> tuple[Int[np.ndarray, " entries"], pd.Index]:
    """The place of each label among the different ones, and these in order."""
    require_filled(labels, source)
    if pd.api.types.infer_dtype(labels, skipna=False).startswith("mixed"):
        # Numbers beside words have no order, and parquet has no room for both.
        labels = labels.map(label_text)
    codes, different = pd.factorize(labels, sort=True)
    return codes.astype(np.int64), pd.Index(different)


def wide_matrix(table: pd.DataFrame, row: str | None, source: str) -> LabelledMatrix:
    """The matrix of a wide table.

    Args:
        table: a row for each row of the matrix, and a column for each of its columns.
        row: the column of row labels; by default the index, a first column without a name, or the first of text.
        source: the file, for messages.

    Raises:
        InputError: a column that is missing, an empty label, a value that is no number, or no column of numbers.
    """
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()  # an index that a parquet file kept is a column of labels
        row = str(table.columns[0]) if row is None else row
    if row is not None:
        require_columns(table, [row], source)
    else:
        row = _label_column(table)
    data = table if row is None else table.drop(columns=row)
    if not data.shape[1]:
        raise InputError(f"{source} has no column of numbers; {HINT}")
    try:
        values = np.column_stack(
            [numbers_with_gaps(data.iloc[:, place], source) for place in range(data.shape[1])]
        )
    except InputError as error:
        raise InputError(f"{error}; {HINT}") from error
    columns = pd.Index(data.columns.astype(str))
    if row is None:
        index = pd.RangeIndex(len(table))
        return LabelledMatrix(source, checked_entries(values, source), index, columns, labelled=False)
    require_filled(table[row], source)
    names = ("row" if row.startswith(UNNAMED) else row, "col", "value")
    return LabelledMatrix(source, checked_entries(values, source), pd.Index(table[row]), columns, names)


def _label_column(table: pd.DataFrame) -> str | None:
    """The first column if it has no name, as pandas and R write row labels; else the first one of text."""
    if str(table.columns[0]).startswith(f"{UNNAMED} 0"):
        return str(table.columns[0])
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            numbers, gaps = parse_numbers(table[name])
            # Where most cells are numbers, a word is a mistake to report: the column does not hold labels.
            filled = int((~gaps).sum())
            if filled and 2 * int((~np.isnan(numbers)).sum()) <= filled:
                return str(name)
    return None


def places_of(
    table: pd.DataFrame, matrix: LabelledMatrix, source: str
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The rows and columns of `matrix` whose labels the rows of a table name.

    Raises:
        InputError: a column that is missing, or a label that the matrix does not have, or has twice.
    """
    names = matrix.names[:2]
    require_columns(table, names, source)
    rows, columns = (
        _places(labels, table[name], source, matrix.source)
        for labels, name in zip((matrix.rows, matrix.columns), names, strict=True)
    )
    return rows, columns


def _places(labels: pd.Index, wanted: pd.Series, source: str, matrix_source: str) -> Int[np.ndarray, " n"]:
    # As text, because a header is text even where another file has the same labels as numbers.
    known, asked = pd.Index(labels.map(label_text)), pd.Index(wanted.map(label_text))
    if not known.is_unique:
        twice = known[known.duplicated()][0]
        raise InputError(
            f"{matrix_source} has the label {twice!r} more than once, so it does not name a single entry"
        )
    places = known.get_indexer(asked)
    if (places < 0).any():
        row = int((places < 0).argmax())
        raise InputError(f"{source}, row {row + 1}: {wanted.name} {asked[row]!r} is not in {matrix_source}")
    return places.astype(np.int64)
