"""Files with a matrix, or with the places of entries to predict, by the ending of their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from corefold.completion.files.arrays import read_arrays
from corefold.completion.files.frames import matrix_of_entries, places_of, wide_matrix
from corefold.completion.files.labelled import LabelledMatrix
from corefold.completion.notes import warnings_as_notes
from corefold.errors import InputError
from corefold.tables.inferred import read_inferred_table

ARRAYS = ".npz"
TABLES = (".csv", ".parquet")
SUFFIXES = (*TABLES, ARRAYS)


def read_matrix(path: Path, row: str | None, col: str | None, value: str | None) -> LabelledMatrix:
    """The matrix in a csv, parquet or npz file.

    Args:
        path: the file.
        row: column of row labels; with `col` and `value` each row of the file is one entry, by itself it names the
            row labels of a wide table.
        col: column of column labels.
        value: column of values.

    Raises:
        InputError: not found, not readable, a column that is missing or holds no numbers, nothing observed.
    """
    _check_suffix(path, SUFFIXES)
    if path.is_dir() or not path.exists():
        raise InputError(f"{path}: no such file")
    with warnings_as_notes() as notes:
        matrix = _read(path, row, col, value)
    return replace(matrix, notes=notes)


def _read(path: Path, row: str | None, col: str | None, value: str | None) -> LabelledMatrix:
    if path.suffix.lower() == ARRAYS:
        if (row, col, value) != (None, None, None):
            raise InputError("--row, --col and --value name the columns of a table; an npz file has none")
        return read_arrays(path)
    table = _read_table(path)
    if row is not None and col is not None and value is not None:
        return matrix_of_entries(table, (row, col, value), str(path))
    if col is not None or value is not None:
        raise InputError(
            "--row, --col and --value go together; without them, or with --row alone, the table is wide"
        )
    return wide_matrix(table, row, str(path))


def read_places(
    path: Path, matrix: LabelledMatrix
) -> tuple[pd.DataFrame, Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """A table of row and column labels, cut to these, and their places in the matrix.

    Raises:
        InputError: not readable, a column missing, or a label that the matrix does not have.
    """
    _check_suffix(path, TABLES)
    table = _read_table(path)
    rows, columns = places_of(table, matrix, str(path))
    return table[[*matrix.names[:2]]].reset_index(drop=True), rows, columns


def _check_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: expected a name ending in one of {', '.join(suffixes)}")


def _read_table(path: Path) -> pd.DataFrame:
    table = read_inferred_table(path)
    return table.set_axis(table.columns.map(str), axis=1)  # in a parquet file names may be numbers
