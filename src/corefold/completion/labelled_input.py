"""Entries whose rows and columns have labels in Python: `(rows, columns, values)` with text, or a long frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from corefold.completion.entries import is_triples
from corefold.completion.labels import Lookup, cells_of, codes_of, is_missing


@dataclass(frozen=True)
class Labels:
    """The labels of one side of a matrix, in the order of its rows or columns."""

    values: tuple[Any, ...]

    @cached_property
    def lookup(self) -> Lookup:
        """Places by label."""
        return Lookup(self.values)

    def array(self) -> np.ndarray:
        """As an array of objects."""
        array = np.empty(len(self.values), dtype=object)
        array[:] = self.values
        return array


@dataclass(frozen=True)
class FittedLabels:
    """What a fitted estimator keeps of labels.

    Attributes:
        rows: the labels of the rows; None where these are places.
        columns: the labels of the columns, likewise.
        entry_columns: the columns of a long frame that held row labels, column labels and values.
    """

    rows: Labels | None = None
    columns: Labels | None = None
    entry_columns: tuple[Any, ...] | None = None

    def to_plain(self) -> dict[str, Any]:
        """As JSON can hold it; empty without labels."""
        plain = {
            "row_labels": self.rows and [_plain(label) for label in self.rows.values],
            "column_labels": self.columns and [_plain(label) for label in self.columns.values],
            "entry_columns": self.entry_columns and [_plain(name) for name in self.entry_columns],
        }
        return {name: value for name, value in plain.items() if value is not None}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> FittedLabels:
        """The inverse of `to_plain`."""
        rows, columns, names = (plain.get(name) for name in ("row_labels", "column_labels", "entry_columns"))
        return cls(
            None if rows is None else Labels(tuple(rows)),
            None if columns is None else Labels(tuple(columns)),
            None if names is None else tuple(names),
        )


def _plain(label: Any) -> Any:
    return label if isinstance(label, str | int | float) else str(label)


@dataclass(frozen=True)
class LabelledEntries:
    """Entries by place, and the labels of the sides that have some; None for a side of places."""

    rows: Any
    columns: Any
    values: Any
    row_labels: Labels | None
    column_labels: Labels | None

    def triples(self) -> tuple[Any, Any, Any]:
        """`(rows, columns, values)`."""
        return self.rows, self.columns, self.values

    def shape(self) -> tuple[int, int]:
        """The shape of the matrix: a side with labels is as long as these."""
        sides = ((self.row_labels, self.rows), (self.column_labels, self.columns))
        height, width = (
            len(labels.values) if labels is not None else int(np.max(places)) + 1 if len(places) else 0
            for labels, places in sides
        )
        return height, width


def frame_parts(X: Any, columns: Sequence[Any]) -> tuple[Any, Any, Any]:
    """The columns of a long frame that hold row labels, column labels and values.

    Raises:
        ValueError: not three names, a column that is missing, or no frame.
    """
    names = list(columns) if not isinstance(columns, str) else [columns]
    if len(names) != 3 or len(set(names)) < 3:
        raise ValueError(
            f"columns must name three columns, of row labels, column labels and values; got {columns!r}"
        )
    if not hasattr(X, "columns"):
        raise ValueError(f"columns goes with a frame that has an entry in each row; got {type(X).__name__}")
    for name in names:
        if name not in X.columns:
            raise ValueError(f"X has no column {name!r}; it has {', '.join(map(str, X.columns))}")
    row, column, value = (X[name] for name in names)
    return row, column, value


def labelled_entries(
    X: Any, columns: Sequence[Any] | None, known_columns: Labels | None = None
) -> LabelledEntries | None:
    """The entries of a long frame, or of triples with labels; None for all else.

    A side of triples has labels where it holds text, categories, dates or durations. Integers are places, but in
    a frame all are labels.

    Args:
        X: what the user passed.
        columns: names of the columns of a frame that has an entry in each row.
        known_columns: the column labels of a fitted estimator, among which those of X are looked up.

    Raises:
        ValueError: a label that is missing, or a column label that is not known.
        TypeError: values that are no numbers.
    """
    if columns is not None:
        row, column, value = frame_parts(X, columns)
    elif is_triples(X):
        row, column, value = X
        if not (_has_labels(row) or _has_labels(column)):
            return None
    else:
        return None
    if not len(row) == len(column) == len(value):
        raise ValueError(
            "triples are (rows, columns, values) of one length; "
            f"got lengths {len(row)}, {len(column)} and {len(value)}"
        )
    row, row_labels = _places("rows", row, columns is not None)
    if known_columns is None:
        column, column_labels = _places("columns", column, columns is not None)
    else:
        column, column_labels = _known_places(column, known_columns), known_columns
    value = np.asarray(np.ma.filled(value.astype(object), np.nan) if np.ma.isMaskedArray(value) else value)
    if value.dtype == object:
        try:
            value = np.array([np.nan if is_missing(cell) else cell for cell in value], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"the values of triples must be numbers; {error}") from error
    return LabelledEntries(row, column, value, row_labels, column_labels)


def _has_labels(part: Any) -> bool:
    kind = getattr(part, "dtype", None)
    if getattr(kind, "kind", None) in ("i", "u", "f", "b"):  # those of pandas too, where numpy sees objects
        return False
    return np.asarray(part).dtype.kind in "UOmM" and len(part) > 0


def _places(name: str, part: Any, always: bool) -> tuple[Any, Labels | None]:
    if not always and not _has_labels(part):
        return part, None
    codes, labels = codes_of(_cells(name, part))
    return codes, Labels(tuple(labels))


def _cells(name: str, part: Any) -> list[Any]:
    """The labels as Python's values.

    Raises:
        ValueError: one is missing.
    """
    cells = cells_of(part)
    for place, cell in enumerate(cells):
        if is_missing(cell) or cell == "":
            raise ValueError(f"the {name} of triples have no label at place {place}")
    return cells


def _known_places(part: Any, known: Labels) -> Int[np.ndarray, " entries"]:
    cells = _cells("columns", part)
    places = known.lookup.places(cells)
    if (places < 0).any():
        raise ValueError(
            f"the column label {cells[int((places < 0).argmax())]!r} is not among the {len(known.values)} of the fit"
        )
    return places
