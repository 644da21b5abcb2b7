"""What `corefold complete` reads: single entries, a wide table with gaps, or arrays; and the entries asked for."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int

from corefold.completion.entries import observed_entries, triples
from corefold.completion.observed import Observed
from corefold.errors import InputError
from corefold.finetune.data import read_table, require_columns

SUFFIXES = (".csv", ".parquet", ".npz")
GAPS = {
    "",
    "NA",
    "N/A",
    "n/a",
    "NaN",
    "nan",
    "null",
    "NULL",
    "None",
    "<NA>",
}  # what stands for a gap in a column of numbers
HINT = "if each row of the file is one entry, name its columns with --row, --col and --value"
ROWS, COLUMNS = "row_labels", "column_labels"  # arrays of an npz file beside the matrix


@dataclass(frozen=True)
class Matrix:
    """Observed entries, and what the user calls their rows and columns.

    Attributes:
        source: the file.
        observed: its entries, each place once.
        rows: a label for each row.
        columns: a label for each column.
        names: of the row labels, the column labels and the values.
        labelled: whether the row labels came with the data, and so go with the result.
        notes: what reading warned of.
    """

    source: str
    observed: Observed
    rows: pd.Index
    columns: pd.Index
    names: tuple[str, str, str] = ("row", "col", "value")
    labelled: bool = True
    notes: list[str] = field(default_factory=list)


def read_matrix(path: Path, row: str | None, col: str | None, value: str | None) -> Matrix:
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
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a name ending in one of {', '.join(SUFFIXES)}")
    if path.is_dir() or not path.exists():
        raise InputError(f"{path}: no such file")
    with caught() as notes:
        matrix = _read(path, row, col, value)
    return replace(matrix, notes=notes)


@contextmanager
def caught() -> Iterator[list[str]]:
    """What is warned of, as text."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        yield notes
    notes.extend(dict.fromkeys(str(warning.message) for warning in heard))


def _read(path: Path, row: str | None, col: str | None, value: str | None) -> Matrix:
    named = [name for name in (row, col, value) if name is not None]
    if path.suffix.lower() == ".npz":
        if named:
            raise InputError("--row, --col and --value name the columns of a table; an npz file has none")
        return _arrays(path)
    table = _table(path)
    if row is not None and col is not None and value is not None:
        return _entries(table, (row, col, value), str(path))
    if col is not None or value is not None:
        raise InputError(
            "--row, --col and --value go together; without them, or with --row alone, the table is wide"
        )
    return _wide(table, row, str(path))


def _table(path: Path) -> pd.DataFrame:
    table = read_table(str(path))
    return table.set_axis(table.columns.map(str), axis=1)  # parquet may have numbers there


def _entries(table: pd.DataFrame, names: tuple[str, str, str], source: str) -> Matrix:
    if len(set(names)) < 3:
        raise InputError(f"--row, --col and --value name three columns; got {', '.join(names)}")
    require_columns(table, list(names), source)
    (row_of, rows), (column_of, columns) = (_codes(table[name], source) for name in names[:2])
    values = _numbers(table[names[2]], source)
    there = ~np.isnan(values)  # a label whose values are all missing still gets its row or column
    X = (row_of[there], column_of[there], values[there])
    return Matrix(source, _observed(X, (len(rows), len(columns)), source), rows, columns, names)


def _codes(labels: pd.Series, source: str) -> tuple[Int[np.ndarray, " n"], pd.Index]:
    _no_gap(labels, source)
    if pd.api.types.infer_dtype(labels, skipna=False).startswith("mixed"):
        labels = labels.map(_as_text)  # numbers beside words have no order, and parquet has no room for both
    codes, found = pd.factorize(labels, sort=True)
    return codes.astype(np.int64), pd.Index(found)


def _no_gap(labels: pd.Series, source: str) -> None:
    missing = np.flatnonzero(labels.isna())
    if len(missing):
        raise InputError(
            f"{source}, row {missing[0] + 1}: label {labels.name!r} is empty ({len(missing)} such rows)"
        )


def _wide(table: pd.DataFrame, row: str | None, source: str) -> Matrix:
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()  # a parquet file keeps an index, and that is a label
        row = str(table.columns[0]) if row is None else row
    if row is not None:
        require_columns(table, [row], source)
    else:
        row = _label_column(table)
    data = table if row is None else table.drop(columns=row)
    if not data.shape[1]:
        raise InputError(f"{source} has no column of numbers; {HINT}")
    try:
        values = np.column_stack([_numbers(data.iloc[:, place], source) for place in range(data.shape[1])])
    except InputError as error:
        raise InputError(f"{error}; {HINT}") from error
    labels = pd.Index(data.columns.astype(str))
    if row is None:
        return Matrix(
            source, _observed(values, None, source), pd.RangeIndex(len(table)), labels, labelled=False
        )
    _no_gap(table[row], source)
    name = "row" if row.startswith("Unnamed:") else row
    return Matrix(
        source, _observed(values, None, source), pd.Index(table[row]), labels, (name, "col", "value")
    )


def _label_column(table: pd.DataFrame) -> str | None:
    """The first column if it has no name, as pandas and R write row labels; else the first one of text."""
    if str(table.columns[0]).startswith("Unnamed: 0"):
        return str(table.columns[0])
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            numbers, gaps = _parsed(table[name])
            # A column of values with a word in it is mostly numbers, and is to be told of, not taken for labels.
            there = int((~gaps).sum())
            if there and 2 * int((~np.isnan(numbers)).sum()) <= there:
                return str(name)
    return None


def _arrays(path: Path) -> Matrix:
    source = str(path)
    if not zipfile.is_zipfile(path):  # else numpy would speak of pickles
        raise InputError(f"{source} cannot be read: it is no npz file")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
            X = sp.load_npz(path) if "format" in arrays else None
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{source} cannot be read: {str(error).splitlines()[0]}") from error
    shape = None
    if X is None and {"rows", "columns", "values"} <= {*arrays}:
        X = tuple(arrays[name] for name in ("rows", "columns", "values"))
        shape = tuple(int(side) for side in arrays["shape"]) if "shape" in arrays else None
        _check_kind(X[2], source)
    elif X is None:
        dense = [array for array in arrays.values() if array.ndim == 2]
        if len(dense) != 1:
            raise InputError(
                f"{source} holds the arrays {', '.join(arrays) or 'none'}; expected a SciPy sparse matrix, arrays "
                "rows, columns and values, or one array of two dimensions"
            )
        X = _check_kind(dense[0], source)
    else:
        _check_kind(X.data, source)
    observed = _observed(X, shape, source)
    labels = [
        _stored_labels(arrays, name, size, source)
        for name, size in zip((ROWS, COLUMNS), observed.shape, strict=True)
    ]
    return Matrix(source, observed, labels[0], labels[1], labelled=ROWS in arrays)


def _check_kind(array: np.ndarray, source: str) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{source}: values must be numbers; got dtype {array.dtype}")
    return array


def _stored_labels(arrays: dict[str, np.ndarray], name: str, size: int, source: str) -> pd.Index:
    if name not in arrays:
        return pd.RangeIndex(size)
    if arrays[name].shape != (size,):
        raise InputError(f"{source}: {name} must have the shape ({size},); got {arrays[name].shape}")
    return pd.Index(arrays[name])


def _observed(X: Any, shape: tuple[int, ...] | None, source: str) -> Observed:
    try:
        if isinstance(X, tuple):
            X = triples(X, shape if shape is None else (shape[0], shape[1]))
        observed = observed_entries(X.astype(np.float64))
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{source}: {error}") from error
    if not len(observed):
        raise InputError(f"{source}: nothing is observed, for every value is missing")
    return observed


def _parsed(column: pd.Series) -> tuple[Float[np.ndarray, " n"], np.ndarray]:
    """The numbers of a column, NaN where there is none, and where it has a gap."""
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return values, np.isnan(values)
    text = column.astype(str).str.strip()
    gaps = (column.isna() | text.isin(GAPS)).to_numpy()
    return pd.to_numeric(text.mask(gaps), errors="coerce").to_numpy(np.float64), gaps


def _numbers(column: pd.Series, source: str) -> Float[np.ndarray, " n"]:
    values, gaps = _parsed(column)
    for bad, what in ((np.isnan(values) & ~gaps, "is not a number"), (np.isinf(values), "is infinite")):
        if bad.any():
            row = int(bad.argmax())
            raise InputError(
                f"{source}, row {row + 1}: {str(column.iloc[row])!r} in column {column.name!r} {what}"
            )
    return values


def read_wanted(
    path: Path, matrix: Matrix
) -> tuple[pd.DataFrame, Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The table of entries asked for, cut to its labels, and their places in the matrix.

    Raises:
        InputError: not readable, a column missing, or a label that the matrix does not have.
    """
    if path.suffix.lower() not in SUFFIXES[:2]:
        raise InputError(f"{path}: expected a name ending in one of {', '.join(SUFFIXES[:2])}")
    table, names = _table(path), list(matrix.names[:2])
    require_columns(table, names, str(path))
    rows, columns = (
        _places(labels, table[name], str(path), matrix.source)
        for labels, name in zip((matrix.rows, matrix.columns), names, strict=True)
    )
    return table[names].reset_index(drop=True), rows, columns


def _places(labels: pd.Index, wanted: pd.Series, path: str, source: str) -> Int[np.ndarray, " n"]:
    # As text, for a header is text even where another file has the same labels as numbers.
    known, asked = pd.Index(labels.map(_as_text)), pd.Index(wanted.map(_as_text))
    if not known.is_unique:
        twice = known[known.duplicated()][0]
        raise InputError(f"{source} has the label {twice!r} more than once, so single entries cannot be told")
    places = known.get_indexer(asked)
    if (places < 0).any():
        row = int((places < 0).argmax())
        raise InputError(f"{path}, row {row + 1}: {wanted.name} {asked[row]!r} is not in {source}")
    return places.astype(np.int64)


def _as_text(label: object) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
