"""Cells that hold lists: as jsonl and parquet have them, written as JSON in csv, or spread over columns of 0 and 1."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from corefold.errors import InputError
from corefold.tables.columns import label_text, require_columns, row_number

YES, NO = {"1", "1.0", "true"}, {"0", "0.0", "false"}


def holds_lists(column: pd.Series) -> bool:
    """Whether a cell of the column is a list."""
    return any(_is_list(cell) for cell in column.tolist())


def empty_lists(column: pd.Series) -> Bool[np.ndarray, " rows"]:
    """Where cells are lists without an item."""
    return np.array([_is_list(cell) and len(cell) == 0 for cell in column.tolist()], dtype=bool)


def holds_messages(column: pd.Series) -> bool:
    """Whether a cell of the column is a list of objects, as conversations are."""
    return any(_is_list(cell) and len(cell) > 0 and isinstance(cell[0], dict) for cell in column.tolist())


def list_cells(column: pd.Series, source: str, example: str) -> pd.Series:
    """The cells of a column as tuples of strings.

    Args:
        column: lists of words and numbers, or such lists as JSON text.
        source: the file, for messages.
        example: a list as this column should hold it, for messages.

    Raises:
        InputError: a cell that is no such list, or one that holds an empty string.
    """
    cells = []
    for place, cell in enumerate(column.tolist()):
        words = _words(cell)
        if words is None:
            raise InputError(
                f"{source}, row {row_number(column, place)}: column {column.name!r} holds {_short(cell)}; expected a "
                f"list such as {example}, in csv the same as JSON"
            )
        cells.append(words)
    return pd.Series(cells, index=column.index, name=column.name, dtype=object)


def join_columns(table: pd.DataFrame, name: str | None, source: str) -> pd.DataFrame:
    """The table with a column of lists where `name` lists columns of 0 and 1 with commas between them.

    The new column has that name; each of its lists holds the names of the columns with a 1. The table stays as it is if
    it has a column `name`.

    Raises:
        InputError: a column that the table lacks, or one with another cell than 0 and 1.
    """
    names = [part.strip() for part in (name or "").split(",")]
    if name is None or name in table.columns or len(names) == 1:
        return table
    require_columns(table, names, source)
    marks = [_marks(table[each], source) for each in names]
    rows = [[each for each, mark in zip(names, row, strict=True) if mark] for row in zip(*marks, strict=True)]
    return table.assign(**{name: pd.Series(rows, index=table.index, dtype=object)})


def _is_list(cell: Any) -> bool:
    return isinstance(cell, list | tuple | np.ndarray)


def _words(cell: Any) -> tuple[str, ...] | None:
    """The strings of a cell; None if it is no list of words and numbers."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    if not _is_list(cell):
        return None
    items: Iterable[Any] = cell.tolist() if isinstance(cell, np.ndarray) else cell
    words = tuple(label_text(item) if isinstance(item, str | int | float) else "" for item in items)
    return None if "" in words else words


def _short(cell: Any, longest: int = 60) -> str:
    text = repr(cell.tolist() if isinstance(cell, np.ndarray) else cell)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _marks(column: pd.Series, source: str) -> list[bool]:
    marks = []
    for place, cell in enumerate(column.tolist()):
        text = str(cell).strip().lower()
        if text not in YES | NO:
            raise InputError(
                f"{source}, row {row_number(column, place)}: column {column.name!r} holds {_short(cell)}; several "
                "columns as --label must hold 0 or 1"
            )
        marks.append(text in YES)
    return marks
