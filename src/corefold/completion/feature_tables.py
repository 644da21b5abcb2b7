"""Features of rows or columns as users pass them, and their lines for those of the matrix."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corefold.completion.labelled_input import Labels
from corefold.completion.labels import Lookup, text_of


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
        """From a frame, whose index are labels, or a matrix of numbers.

        Raises:
            ValueError: another form, or no column.
        """
        if hasattr(given, "toarray"):
            given = given.toarray()
        labels = None
        if hasattr(given, "columns"):
            names = [str(name) for name in given.columns]
            columns = [np.asarray(given[name]) for name in given.columns]
            labels = tuple(given.index) if hasattr(given, "index") else None
        else:
            array = np.asarray(given)
            if array.ndim != 2:
                raise ValueError(
                    f"{side}_features must be a frame or a matrix with a line for each {side}; got shape {array.shape}"
                )
            names, columns = [str(place) for place in range(array.shape[1])], list(array.T)
        if not columns or not len(columns[0]):
            raise ValueError(f"{side}_features has no {'column' if not columns else 'line'}")
        return cls(side, tuple(names), tuple(map(_numbers_or_words, columns)), labels)

    def places(self, size: int, labels: Sequence[Any] | None, must: bool) -> np.ndarray:
        """The line of each row, or column, of the matrix; -1 for none.

        Args:
            size: of this side of the matrix.
            labels: of the matrix's side; None where lines count.
            must: whether the matrix has labels of its own, so that lines must have some as well.

        Raises:
            ValueError: lines that cannot be matched.
        """
        if labels is not None and self.labels is not None and (must or _differ(labels, self.labels)):
            lookup = Lookup(self.labels)
            if lookup.twice is not None:
                raise ValueError(f"{self.side}_features has the label {lookup.twice!r} twice")
            places = lookup.places(labels)
            self._say_missing(places, labels, self.labels)
            return places
        if must:
            raise ValueError(
                f"the {self.side}s have labels; {self.side}_features must be a frame with these as its index"
            )
        if len(self) != size:
            raise ValueError(
                f"{self.side}_features must have a line for each of the {size} {self.side}s; got {len(self)}"
            )
        return np.arange(size)

    def _say_missing(self, places: np.ndarray, labels: Sequence[Any], own: Sequence[Any]) -> None:
        """Warn of rows without a line, or refuse a table that has none of them."""
        missing = np.flatnonzero(places < 0)
        if len(missing) == len(places):
            raise ValueError(
                f"no {self.side} of the data is in the index of {self.side}_features: {labels[0]!r} is not among "
                f"{own[0]!r}, ..."
            )
        if len(missing):
            warnings.warn(
                f"{len(missing)} of {len(places)} {self.side}s are not in {self.side}_features, the first is "
                f"{labels[missing[0]]!r}; they are taken for average ones",
                stacklevel=6,
            )

    def labels_beyond(self, labels: Labels) -> tuple[Any, ...]:
        """Labels of its lines that the matrix does not have."""
        own = self.labels or ()
        places = Lookup(labels.values).places(own)
        return tuple(label for label, place in zip(own, places, strict=True) if place < 0)


def _numbers_or_words(column: np.ndarray) -> np.ndarray:
    """As floats, or as text with "" for what is missing."""
    if column.dtype.kind in "biuf":
        return _finite(column.astype(np.float64))
    known = [None if _missing(cell) else cell for cell in column.astype(object)]
    if all(cell is None or isinstance(cell, bool | int | float | np.number) for cell in known):
        return _finite(np.array([np.nan if cell is None else float(cell) for cell in known]))
    return np.array(["" if cell is None else text_of(cell) for cell in known], dtype=object)


def _missing(cell: Any) -> bool:
    return cell is None or cell != cell or type(cell).__name__ == "NAType"


def _finite(numbers: np.ndarray) -> np.ndarray:
    if np.isinf(numbers).any():
        raise ValueError("features contain an infinity; NaN stands for a missing one")
    return numbers


def _differ(labels: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether lines are told apart by labels, or in the same order anyway."""
    return list(map(text_of, labels)) != list(map(text_of, others))
