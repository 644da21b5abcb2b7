"""Labels of rows and columns: their order, and the places that they name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
from jaxtyping import Int

PLAIN_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
WHOLE_FLOAT = re.compile(r"([+-]?[0-9]+)\.0+")
NO_FRACTION = re.compile(r"(\.[0-9]*?)0+(?=$|[+-])")  # the end of a fraction of a second that says nothing
MIDNIGHT = re.compile(r"T00:00:00$")
MICROSECOND = timedelta(microseconds=1)


def in_order(labels: Sequence[Any]) -> Int[np.ndarray, " labels"]:
    """The places of different labels in order: numbers by size, also those that are written as text, then words.

    >>> in_order(["10", "b", "9", "007", "a"]).tolist()
    [3, 2, 0, 4, 1]
    """
    keys = [_key(label) for label in labels]
    try:
        order = sorted(range(len(keys)), key=keys.__getitem__)
    except TypeError:  # values of several types that have no order
        order = sorted(range(len(keys)), key=lambda place: str(labels[place]))
    return np.array(order, dtype=np.int64)


def _key(label: Any) -> tuple[Any, ...]:
    if isinstance(label, str):
        return (0, float(label), label) if PLAIN_NUMBER.fullmatch(label) else (1, 0.0, label)
    if isinstance(label, int | float | np.number):
        return 0, float(label), "", label
    return 2, label


def codes_of(labels: Iterable[Any]) -> tuple[Int[np.ndarray, " entries"], list[Any]]:
    """The place of each label among the different ones, and these in order."""
    places: dict[Any, int] = {}
    codes = np.fromiter((places.setdefault(label, len(places)) for label in labels), np.int64)
    different = list(places)
    order = in_order(different)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes] if len(codes) else codes, [different[place] for place in order]


class Lookup:
    """The places of labels, each known as text.

    Labels are compared as text, because a header is text even where another file has the same labels as numbers. Files
    that pandas wrote have whole numbers beside a gap as floats, so "107.0" also names the label "107" if no other does.

    Args:
        labels: in the order of their places.

    Attributes:
        twice: a label that stands twice, if there is one.
    """

    def __init__(self, labels: Sequence[Any]) -> None:
        self._texts = [text_of(label) for label in labels]
        self._exact = {text: place for place, text in enumerate(self._texts)}
        self.twice = next(
            (text for place, text in enumerate(self._texts) if self._exact[text] != place), None
        )
        self._whole: dict[str, int] = {}
        for place, text in enumerate(self._texts):
            short = _without_zeros(text)
            self._whole[short] = -1 if short in self._whole else place

    def places(self, wanted: Iterable[Any], changes: list[str] | None = None) -> Int[np.ndarray, " wanted"]:
        """The place of each label, -1 where it is not known.

        Args:
            wanted: labels.
            changes: a list that gets each label that is known in other words, as "'107.0' as '107'".
        """
        found = []
        for label in wanted:
            text = text_of(label)
            place = self._exact.get(text, -1)
            if place < 0 <= (near := self._whole.get(_without_zeros(text), -1)):
                place = near
                if changes is not None:
                    changes.append(f"{text!r} as {self._texts[near]!r}")
            found.append(place)
        return np.array(found, dtype=np.int64)


def _without_zeros(text: str) -> str:
    match = WHOLE_FLOAT.fullmatch(text)
    return match[1] if match else text


def text_of(label: Any) -> str:
    """A label as text: alike for a whole number as a float and as an integer, and for a time in whatever type."""
    if isinstance(label, tuple):
        return str(tuple(map(text_of, label)))
    if isinstance(label, date | np.datetime64):
        return _iso(label)
    if isinstance(label, timedelta | np.timedelta64):
        return str(_duration(label))
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _iso(time: date | np.datetime64) -> str:
    """A date, or a date and time, of as many digits as it needs.

    >>> text_of(np.datetime64("2020-03-01T00:00:00.000"))
    '2020-03-01'
    """
    if isinstance(time, np.datetime64):
        unit, _ = np.datetime_data(time.dtype)
        text = str(time.astype("datetime64[s]") if unit in ("Y", "M", "W", "D", "h", "m") else time)
    else:
        text = time.isoformat()
    return MIDNIGHT.sub("", NO_FRACTION.sub(lambda found: found[1].rstrip("."), text))


def _duration(label: timedelta | np.timedelta64) -> timedelta | None:
    """A duration as Python's type; None for NaT."""
    if isinstance(label, np.timedelta64):
        return label.astype("timedelta64[us]").item()
    return timedelta(microseconds=label // MICROSECOND)


def is_missing(cell: Any) -> bool:
    """Whether a cell is None, NaN, NA or NaT, or a tuple with one of these."""
    if isinstance(cell, tuple):
        return any(map(is_missing, cell))
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or bool(cell != cell)


def cells_of(labels: Any) -> list[Any]:
    """Labels as Python's values, dates as text."""
    array = np.asarray(labels)
    cells = list(array) if array.dtype.kind in "mM" else array.tolist()
    return [plain_label(cell) for cell in cells]


def plain_label(label: Any) -> Any:
    """The label itself, a date as text, and a duration as Python's type, whose order is that of time."""
    if isinstance(label, tuple):
        return tuple(map(plain_label, label))
    if is_missing(label):
        return label
    if isinstance(label, timedelta | np.timedelta64):
        return _duration(label)
    return text_of(label) if isinstance(label, date | np.datetime64) else label
