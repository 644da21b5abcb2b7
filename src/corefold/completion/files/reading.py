"""Files with a matrix, or with the places of entries to predict, by the ending of their names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from corefold.completion.entries import DUPLICATES
from corefold.completion.files.arrays import read_arrays
from corefold.completion.files.frames import TableReading, matrix_of_entries, wide_matrix
from corefold.completion.files.labelled import LabelledMatrix
from corefold.completion.files.places import Places, places_of
from corefold.completion.notes import suspicion_notes, warnings_as_notes
from corefold.errors import InputError
from corefold.tables.columns import require_columns
from corefold.tables.formats import FORMAT_LIST, format_of
from corefold.tables.reading import read_table
from corefold.tables.standard_input import STANDARD_INPUT, file_of, name_of
from corefold.tables.writing import TABLE_SUFFIXES

ARRAYS = ".npz"
SUFFIXES = (*TABLE_SUFFIXES, ARRAYS)


@dataclass(frozen=True)
class FileReading(TableReading):
    """How a file is read.

    Attributes:
        encoding: of a file of text; None: as the file suggests.
        delimiter: between the cells of a csv or tsv file, likewise.
    """

    encoding: str | None = None
    delimiter: str | None = None


def read_matrix(
    path: Path, row: str | None, col: str | None, value: str | None, reading: FileReading | None = None
) -> LabelledMatrix:
    """The matrix in a table or in an npz file.

    Args:
        path: the file; `-` for standard input.
        row: column of row labels; with `col` and `value` each row of the file is one entry, by itself it names the
            row labels of a wide table, and "none" says that these have no column.
        col: column of column labels.
        value: column of values.
        reading: of the file.

    Raises:
        InputError: not found, not readable, a column that is missing or holds no numbers, nothing observed.
    """
    reading = reading or FileReading()
    if reading.duplicates not in DUPLICATES:
        raise InputError(f"--duplicates must be one of {', '.join(DUPLICATES)}; got {reading.duplicates!r}")
    _check_kind(path, arrays=True)
    table_notes: list[str] = []
    with file_of(path, table_notes) as file, warnings_as_notes() as notes:
        matrix = _read(file, row, col, value, reading, table_notes)
    source, shown = str(file), name_of(path)
    own = [note.replace(source, shown) for note in matrix.notes]
    matrix = replace(matrix, source=shown)
    return replace(
        matrix, notes=[*table_notes, *own, *notes, *suspicion_notes(matrix.observed, matrix.columns)]
    )


def _read(
    path: Path, row: str | None, col: str | None, value: str | None, reading: FileReading, notes: list[str]
) -> LabelledMatrix:
    if path.suffix.lower() == ARRAYS:
        if (row, col, value) != (None, None, None):
            raise InputError("--row, --col and --value name the columns of a table; an npz file has none")
        if reading.drop:
            raise InputError("--drop names a column of a table; an npz file has none")
        return read_arrays(path, reading.spelling.gap_numbers, reading.duplicates)
    table = _read_table(path, reading, notes)
    if reading.drop:
        table = table.drop(columns=_dropped(table, reading, (row, col, value), str(path)))
    if row is not None and col is not None and value is not None:
        tables = [table]  # A list, so that the entries are sorted in the memory that the table had.
        del table
        return matrix_of_entries(tables.pop(), (row, col, value), str(path), reading)
    if col is not None or value is not None:
        raise InputError(
            "--row, --col and --value go together; without them, or with --row alone, the table is wide"
        )
    return wide_matrix(table, row, str(path), reading)


def _dropped(
    table: pd.DataFrame, reading: FileReading, named: tuple[str | None, ...], source: str
) -> list[str]:
    """The columns to leave out; a name that is no column may be several, with commas between."""
    names: list[str] = []
    for name in reading.drop:
        names += [name] if name in table.columns else [each.strip() for each in name.split(",")]
    require_columns(table, names, source)
    for name in names:
        if name in named:
            raise InputError(f"--drop {name} leaves out a column that --row, --col or --value names")
    return names


def read_places(path: Path, matrix: LabelledMatrix, reading: FileReading | None = None) -> Places:
    """The entries of the matrix that a table of row and column labels names.

    Raises:
        InputError: not readable, a column missing or empty, or a label that the matrix has twice.
    """
    notes: list[str] = []
    table, source = read_file_table(path, reading or FileReading(), notes)
    places = places_of(table, matrix, source)
    return replace(places, notes=[*notes, *places.notes])


def read_file_table(path: Path, reading: FileReading, notes: list[str]) -> tuple[pd.DataFrame, str]:
    """A table and the name of its file, for messages.

    Raises:
        InputError: not found or not readable.
    """
    _check_kind(path, arrays=False)
    with file_of(path, notes) as file:
        return _read_table(file, reading, notes), name_of(path)


def _check_kind(path: Path, arrays: bool) -> None:
    if str(path) == STANDARD_INPUT:
        return
    if path.is_dir() or not path.exists():
        if not path.is_dir() and format_of(path) is None and path.suffix.lower() != ARRAYS:
            raise InputError(_expected(path, arrays))
        raise InputError(f"{path}: no such file")
    if format_of(path) is None and not (arrays and path.suffix.lower() == ARRAYS):
        raise InputError(_expected(path, arrays))


def _expected(path: Path, arrays: bool) -> str:
    return f"{path}: expected a name ending in one of {f'{ARRAYS}, ' if arrays else ''}{FORMAT_LIST}"


def _read_table(path: Path, reading: FileReading, notes: list[str]) -> pd.DataFrame:
    table = read_table(str(path), encoding=reading.encoding, delimiter=reading.delimiter, notes=notes)
    return table.set_axis(table.columns.map(str), axis=1)  # in a parquet file names may be numbers
