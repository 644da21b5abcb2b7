"""Features of rows or columns as users pass them, and their lines for those of the matrix."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Int

from corefold.completion.labels import Lookup, is_missing, plain_label, text_of

DAY = timedelta(days=1)
MICROSECONDS = DAY / timedelta(microseconds=1)
NO_FEATURES = (list, tuple, set, frozenset, dict, np.ndarray, complex, np.complexfloating)


@dataclass(frozen=True)
class FeatureTable:
    """A table with a line for each row, or each column, of the matrix.

    Attributes:
        side: "row" or "column".
        names: of its columns.
        columns: arrays of numbers or of words.
        labels: of its lines; None where these count.
    """

    side: str
    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    labels: tuple[Any, ...] | None

    def __len__(self) -> int:
        return len(self.columns[0])

    @classmethod
    def of(cls, side: str, given: Any) -> FeatureTable:
        """From a frame, whose index are labels, or a matrix.

        Lines that no row of a frame has are left out, with a warning; those that no entry has become rows where the
        matrix is given by its entries.

        Raises:
            ValueError: another form, no column, two of one name, cells that are no numbers, dates or words, or lines
                without a label.
        """
        labels = None
        if hasattr(given, "columns"):
            own_names = list(getattr(given, "column_names", given.columns))  # the former in pyarrow's tables
            names = [text_of(name) for name in own_names]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"{side}_features has several columns with the name {twice!r}; rename them")
            columns = [given[name] for name in own_names]
            labels = tuple(map(plain_label, given.index)) if hasattr(given, "index") else None
        else:
            array = _matrix(given)
            if array.ndim != 2:
                raise ValueError(
                    f"{side}_features must be a frame or a matrix with a line for each {side}; got "
                    f"{type(given).__name__} of shape {array.shape}"
                )
            names, columns = [str(place) for place in range(array.shape[1])], list(array.T)
        for place, label in enumerate(labels or ()):
            if is_missing(label) or label == "":
                raise ValueError(f"{side}_features has no label in line {place + 1} of its index")
        if not columns or not len(columns[0]):
            raise ValueError(f"{side}_features has no {'column' if not columns else 'line'}")
        cells = []
        for name, column in zip(names, columns, strict=True):
            try:
                cells.append(numbers_or_words(column))
            except ValueError as error:
                raise ValueError(f"{side}_features: column {name!r} {error}") from error
        return cls(side, tuple(names), tuple(cells), labels)

    def length(self, least: int) -> int:
        """Of this side of a matrix that is given by places, with all lines of the table.

        Raises:
            ValueError: none of them belongs to the places that the entries need, which are `least`.
        """
        if self._integers is None:
            return max(least, len(self))
        self.require_some(range(least))
        return max(least, max(self._integers) + 1)

    def labels_of_matrix(
        self, size: int, labels: Sequence[Any] | None, numbered: bool
    ) -> Sequence[Any] | None:
        """The labels to find lines by; see `places` for the arguments."""
        return range(size) if labels is None and numbered and self._integers is not None else labels

    def places(
        self, size: int, labels: Sequence[Any] | None, must: bool, numbered: bool = False
    ) -> Int[np.ndarray, " side"]:
        """The line of each row, or column, of the matrix; -1 for none.

        Args:
            size: of this side of the matrix.
            labels: of the matrix's side; None where lines count.
            must: whether the matrix has labels of its own, so that lines must have some as well.
            numbered: whether the matrix was given by the places of its entries, which integers in an index are too.

        Raises:
            ValueError: lines that cannot be matched.
        """
        labels = self.labels_of_matrix(size, labels, numbered)
        if labels is not None and self.labels is not None and (must or _differ(labels, self.labels)):
            places = self._lookup.places(labels)
            self.require_some(labels)
            self._say_missing(places, labels)
            return places
        if must:
            raise ValueError(
                f"the {self.side}s have labels; {self.side}_features must be a frame with these as its index"
            )
        if len(self) != size:
            raise ValueError(
                f"{self.side}_features must have a line for each of the {size} {self.side}s; got {len(self)}"
            )
        if labels is None and self._integers is not None and sorted(self._integers) != [*self._integers]:
            warnings.warn(
                f"the {self.side}s have no labels, so lines of {self.side}_features are taken in their order, which is "
                "not that of their index; sort_index() makes it so, reset_index(drop=True) ends this warning",
                stacklevel=5,
            )
        return np.arange(size)

    def require_some(self, labels: Sequence[Any]) -> None:
        """Check that the table has a line for one of the labels.

        Raises:
            ValueError: it has none.
        """
        if self.labels is not None and len(labels) and (self._lookup.places(labels) < 0).all():
            raise ValueError(
                f"no {self.side} of the data is in the index of {self.side}_features: {labels[0]!r} is not among "
                f"{self.labels[0]!r}, ..."
            )

    def labels_beyond(self, labels: Sequence[Any]) -> tuple[Any, ...]:
        """Labels of its lines that the matrix does not have."""
        own = self.labels or ()
        places = Lookup(labels).places(own)
        return tuple(label for label, place in zip(own, places, strict=True) if place < 0)

    def _say_missing(self, places: np.ndarray, labels: Sequence[Any]) -> None:
        """Warn of rows without a line."""
        missing = np.flatnonzero(places < 0)
        if len(missing):
            warnings.warn(
                f"{len(missing)} of {len(places)} {self.side}s are not in {self.side}_features, the first is "
                f"{labels[missing[0]]!r}; they are taken for average ones",
                stacklevel=6,
            )

    @cached_property
    def _lookup(self) -> Lookup:
        lookup = Lookup(self.labels or ())
        if lookup.twice is not None:
            raise ValueError(f"{self.side}_features has the label {lookup.twice!r} twice")
        return lookup

    @cached_property
    def _integers(self) -> tuple[int, ...] | None:
        """Labels that are whole numbers, which places are too; None of others."""
        labels: tuple[Any, ...] = self.labels or (None,)
        return tuple(map(int, labels)) if all(map(_is_whole, labels)) else None


def _is_whole(label: Any) -> bool:
    """Whether a label is a whole number; a gap in another index of a frame makes floats of these."""
    if isinstance(label, bool | np.bool_ | timedelta | np.timedelta64):
        return False
    return isinstance(label, int | np.integer) or (
        isinstance(label, float | np.floating) and label.is_integer()
    )


def _matrix(given: Any) -> np.ndarray:
    """An array whose cells keep their types."""
    if hasattr(given, "toarray"):
        given = given.toarray()
    if np.ma.isMaskedArray(given):
        cells = np.asarray(given).astype(object)
        cells[np.ma.getmaskarray(given)] = None
        return cells
    if not isinstance(given, list | tuple):
        return np.asarray(given)
    try:
        return np.array(given, dtype=object)
    except ValueError:  # lines of several lengths
        return np.empty(len(given))


def numbers_or_words(column: Any) -> np.ndarray:
    """As floats, where dates and durations are days, or as text with "" for what is missing.

    Raises:
        ValueError: an infinity, or a cell that is neither; the message goes on from the name of the column.
    """
    array, kind = np.asarray(column), getattr(column, "dtype", None)
    categorical = hasattr(kind, "categories") or str(kind).startswith("dictionary")  # the latter in pyarrow
    if array.dtype.kind in "mM" and not categorical:
        return _days(array)
    if array.dtype.kind in "biuf" and not categorical:
        return _finite(array.astype(np.float64))
    for cell in array.astype(object):
        if isinstance(cell, NO_FEATURES):
            raise ValueError(f"has a cell of type {type(cell).__name__}; expected numbers, dates or words")
    cells = [None if is_missing(cell) else cell for cell in array.astype(object)]
    if not categorical:
        numbers = [np.nan if cell is None else _number(cell) for cell in cells]
        if None not in numbers:
            return _finite(np.array(numbers, dtype=np.float64))
    return np.array(["" if cell is None else text_of(cell) for cell in cells], dtype=object)


def _number(cell: Any) -> float | None:
    """A cell as a number; None for words."""
    if isinstance(cell, np.datetime64 | np.timedelta64):
        return float(_days(np.array(cell)))
    if isinstance(cell, Real | np.bool_ | Decimal):
        try:
            return float(cell)
        except OverflowError:
            return math.inf
    if isinstance(cell, datetime):
        return (cell - datetime(1970, 1, 1, tzinfo=cell.tzinfo)) / DAY
    if isinstance(cell, date):
        return float((cell - date(1970, 1, 1)).days)
    return cell / DAY if isinstance(cell, timedelta) else None


def _days(times: np.ndarray) -> np.ndarray:
    days = times.astype(f"{times.dtype.kind}8[us]").astype(np.int64) / MICROSECONDS
    return np.where(np.isnat(times), np.nan, days)


def _finite(numbers: np.ndarray) -> np.ndarray:
    if np.isinf(numbers).any():
        raise ValueError("contains an infinity; NaN stands for a missing number")
    return numbers


def _differ(labels: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether lines are told apart by labels, or in the same order anyway."""
    return list(map(text_of, labels)) != list(map(text_of, others))
