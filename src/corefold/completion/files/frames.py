"""Matrices from tables: a row for each entry, or a wide table with gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from corefold.completion.files.labelled import LabelledMatrix, checked_entries
from corefold.completion.files.row_labels import (
    UNNAMED,
    RowLabels,
    find_row_labels,
    label_index,
    require_words_left_out,
)
from corefold.completion.inputs import looks_long, named_as_entries
from corefold.completion.labels import in_order
from corefold.errors import InputError
from corefold.tables.columns import empty_cells, require_columns, require_scalars, row_number
from corefold.tables.number_cells import Numbers, Spelling, numbers_of
from corefold.tables.unquoted import release_memory

HINT = "if each row of the file is one entry, name its columns with --row, --col and --value"
NO_LABELS = "none"  # what --row names where no column holds labels


@dataclass(frozen=True)
class TableReading:
    """How the columns and the cells of a table are read.

    Attributes:
        drop: columns to leave out.
        spelling: of numbers.
        duplicates: which value counts where an entry occurs more than once.
    """

    drop: Sequence[str] = ()
    spelling: Spelling = Spelling()
    duplicates: str = "mean"


def matrix_of_entries(
    table: pd.DataFrame, names: tuple[str, str, str], source: str, reading: TableReading | None = None
) -> LabelledMatrix:
    """The matrix of a table with an entry in each row.

    Args:
        table: the entries.
        names: the columns of row labels, of column labels and of values.
        source: the file, for messages.
        reading: of cells.

    Raises:
        InputError: a column that is missing or named twice, an empty label or a value that is no number.
    """
    reading = reading or TableReading()
    if len(set(names)) < 3:
        raise InputError(f"--row, --col and --value name three columns; got {', '.join(names)}")
    require_columns(table, names, source)
    notes: list[str] = []
    (row_of, rows), (column_of, columns) = (_codes(table[name], source, notes) for name in names[:2])
    numbers = numbers_of(table[[names[2]]], source, reading.spelling)
    numbers.require_numbers([0])
    values = numbers.values[:, 0]
    present = ~np.isnan(values)  # a label whose values are all missing still gets its row or column
    if not present.all():
        row_of, column_of, values = row_of[present], column_of[present], values[present]
    if reading.duplicates == "error":
        _require_once(table, names, row_of * np.int64(len(columns)) + column_of, present, source)
    shape, notes = (len(rows), len(columns)), [*notes, *numbers.notes]
    del table, numbers
    release_memory()
    observed = checked_entries((row_of, column_of, values), source, shape, reading.duplicates)
    return LabelledMatrix(source, observed, rows, columns, names, notes=notes)


def _refuse_entries(numbers: Numbers, kept: list[int], source: str) -> None:
    """Raise InputError for a table that has an entry in each row, by the names and the first two of its columns."""
    names = [str(numbers.table.columns[place]) for place in kept]
    first = numbers.values[:, kept[:2]]
    if not 3 <= len(names) <= 4 or np.isnan(first).any() or not (first == np.floor(first)).all():
        return
    rows, columns = first.astype(np.int64).T
    if named_as_entries(names) and looks_long(rows, columns):
        raise InputError(
            f"{source} looks like an entry a row: add --row {names[0]} --col {names[1]} --value {names[2]}; if it is a "
            "matrix, add --row none"
        )


def _require_once(
    table: pd.DataFrame,
    names: tuple[str, str, str],
    places: Int[np.ndarray, " entries"],
    present: np.ndarray,
    source: str,
) -> None:
    """Raise InputError for the first entry that has the labels of an earlier one."""
    again = pd.Series(places).duplicated().to_numpy()
    if again.any():
        lines = np.flatnonzero(present)
        second = int(again.argmax())
        first = int((places == places[second]).argmax())
        row, column = (str(table[name].iloc[lines[second]]) for name in names[:2])
        raise InputError(
            f"{source}, rows {lines[first] + 1} and {lines[second] + 1}: two values for {names[0]} {row!r} and "
            f"{names[1]} {column!r} ({int(again.sum())} entries are given again); --duplicates mean, last or "
            "first counts one"
        )


def _codes(labels: pd.Series, source: str, notes: list[str]) -> tuple[Int[np.ndarray, " entries"], pd.Index]:
    """The place of each label among the different ones, and these in order."""
    _require_labels(labels, source)
    codes, different = pd.factorize(label_index(labels))
    different = pd.Index(different)
    order = in_order(different.tolist())
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    different = different.take(order)
    notes.extend(_near_doubles(different, str(labels.name), source))
    return place[codes], different


def _require_labels(labels: pd.Series, source: str) -> None:
    require_scalars(labels, source)
    empty = empty_cells(labels) if labels.dtype == object else labels.isna().to_numpy(dtype=bool)
    if empty.any():
        row = row_number(labels, int(empty.argmax()))
        raise InputError(
            f"{source}, row {row}: column {labels.name!r} is empty ({int(empty.sum())} such rows)"
        )


def _near_doubles(labels: pd.Index, name: str, source: str) -> list[str]:
    """A note on labels that blanks alone tell apart."""
    seen: dict[str, str] = {}
    for label in labels:
        if not isinstance(label, str):
            return []
        other = seen.setdefault(label.strip(), label)
        if other != label:
            return [
                f"{source}: {other!r} and {label!r} in column {name!r} are two labels; only blanks tell them apart"
            ]
    return []


def wide_matrix(
    table: pd.DataFrame, row: str | None, source: str, reading: TableReading | None = None
) -> LabelledMatrix:
    """The matrix of a wide table.

    Args:
        table: a row for each row of the matrix, and a column for each of its columns.
        row: the column of row labels, or "none" if there is none; by default it is looked for, see `find_row_labels`.
        source: the file, for messages.
        reading: of cells.

    Raises:
        InputError: a column that is missing, an empty label, a value that is no number, or no column of numbers.
    """
    reading = reading or TableReading()
    named = row is not None and (row in table.columns or row != NO_LABELS)
    if named:
        require_columns(table, [str(row)], source)
    data = table.drop(columns=row) if named else table
    if not data.shape[1]:
        raise InputError(f"{source} has no column of numbers; {HINT}")
    numbers = numbers_of(data, source, reading.spelling)
    found = find_row_labels(numbers) if row is None else RowLabels(None)
    kept = [place for place in range(data.shape[1]) if place != found.place]
    if not kept:
        raise InputError(f"{source} has no column of numbers; {HINT}")
    require_words_left_out(
        [str(data.columns[each]) for each in numbers.words() if each != found.place], source
    )
    try:
        numbers.require_numbers(kept)
    except InputError as error:
        raise InputError(f"{error}; {HINT}") from error
    if row is None:
        _refuse_entries(numbers, kept, source)
    values = numbers.values if len(kept) == data.shape[1] else numbers.values[:, kept]
    observed = checked_entries(values, source)
    columns = pd.Index(data.columns[kept].map(str), dtype=object)
    notes = [*([] if found.note is None else [found.note]), *numbers.notes]
    if not named and found.place is None:
        index = pd.RangeIndex(len(table))
        return LabelledMatrix(source, observed, index, columns, labelled=False, notes=notes)
    labels = table[row] if named else data.iloc[:, int(found.place or 0)]
    _require_labels(labels, source)
    name = "row" if str(labels.name).startswith(UNNAMED) else str(labels.name)
    return LabelledMatrix(source, observed, label_index(labels), columns, (name, "col", "value"), notes=notes)
