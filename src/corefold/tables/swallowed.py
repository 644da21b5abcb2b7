"""Cells of csv files that a stray quote made so long that they hold other rows.

A text of several lines is as good a cell as any. It is told from swallowed rows by its lines: in a file with w columns
a swallowed line holds w - 1 delimiters, and what it would put into another column is what stands there in other rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corefold.errors import InputError
from corefold.tables.columns import as_number

MAX_REPEATED_SHARE = (
    0.5  # A column of names repeats itself: it has at most so many different cells for a row.
)
MIN_DELIMITERS = 4  # So many in equal lines are no chance where no column repeats itself.


@dataclass(frozen=True)
class LongRow:
    """A row of several lines.

    Attributes:
        first: the number of its first line, from 1.
        lines: its lines.
    """

    first: int
    lines: tuple[str, ...]


def require_no_swallowed_rows(
    block: Sequence[tuple[list[str], LongRow | None]], delimiter: str, source: str
) -> None:
    """Raise InputError for the first row whose lines look like rows of their own.

    Args:
        block: rows, each with its lines if they are several.
        delimiter: between cells.
        source: the file, for messages.
    """
    long_rows = [(row, long) for row, long in block if long is not None]
    if not long_rows or len(long_rows[0][0]) == 1:
        return
    columns = zip(*(row for row, _ in block), strict=True)
    known = [_Known.of(set(cells), len(block)) for cells in columns]
    for row, long in long_rows:
        if _holds_rows(row, long, known, delimiter):
            last = long.first + len(long.lines) - 1
            raise InputError(
                f"{source}, lines {long.first} to {last}: a quote opens a cell that holds what look like "
                f'{len(long.lines)} rows; write """ at the beginning of a text that begins with a quote and "" for '
                "each other quote in it. Save the table as .jsonl if that is one text of several lines"
            )


@dataclass(frozen=True)
class _Known:
    """The cells that a column has in other rows, as far as they tell what belongs there."""

    names: frozenset[str]
    numbers: bool

    @classmethod
    def of(cls, cells: set[str], rows: int) -> _Known | None:
        filled = {cell for cell in cells if cell}
        numbers = bool(filled) and all(as_number(cell) is not None for cell in filled)
        repeats = len(filled) <= max(2, MAX_REPEATED_SHARE * rows)
        return cls(frozenset(filled) if repeats else frozenset(), numbers) if repeats or numbers else None

    def fits(self, cell: str) -> bool:
        return cell in self.names or (self.numbers and cell == cell.strip() and as_number(cell) is not None)


def _holds_rows(row: list[str], long: LongRow, known: Sequence[_Known | None], delimiter: str) -> bool:
    places = [place for place, cell in enumerate(row) if "\n" in cell or "\r" in cell]
    pieces = [line.rstrip("\r\n").split(delimiter) for line in long.lines if line.strip()]
    if len(places) != 1 or any(len(cells) != len(row) for cells in pieces):
        return False
    place = places[0]
    # The last line ends with cells of this row and the first begins with some, so these prove nothing.
    asked = [(each, cells[each]) for cells in pieces[:-1] for each in range(place + 1, len(row))]
    asked += [(each, cells[each]) for cells in pieces[1:] for each in range(place)]
    judged = [(judge, cell) for each, cell in asked if (judge := known[each]) is not None]
    if judged:
        return any(judge.fits(cell) for judge, cell in judged)
    return len(pieces) * (len(row) - 1) >= MIN_DELIMITERS
