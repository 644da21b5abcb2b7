"""csv and tsv: every cell stays the string that was written, and no quote swallows a row in silence.

csv quotes as RFC 4180 has it; tsv has no quoting at all, so that a quote is a letter as any other.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TextIO

import pandas as pd

from corefold.errors import InputError
from corefold.tables.header import column_names, with_written_names
from corefold.tables.swallowed import LongRow, require_no_swallowed_rows

TEXT = (
    "str" if int(pd.__version__.partition(".")[0]) >= 3 else "object"
)  # pandas' type of a column of strings
DECLARED = re.compile(r"sep=([^\r\n])[\r\n]*")
DECLARATION = ["sep=", ""]  # its cells
OTHER_DELIMITERS = (";", "\t", "|")
LARGEST_CELL = min(sys.maxsize, 2**31 - 1)  # csv's own limit, 131072 letters, is below that of long documents


@dataclass(frozen=True)
class Dialect:
    """How the lines of a file become cells."""

    delimiter: str
    quoted: bool = True


@dataclass
class _Lines:
    """The lines of a file; `kept` are those since it was last emptied."""

    file: TextIO
    kept: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.kept.append(line)
            yield line


def parse_delimiter(delimiter: str) -> str:
    """The character that an option names, where a tab may be written as backslash and t.

    Raises:
        InputError: not one character.
    """
    character = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if len(character) != 1 or character in '"\r\n':
        raise InputError(f"--delimiter must be one character, as ';' or '|' or '\\t'; got {delimiter!r}")
    return character


def guess_delimiter(file: TextIO) -> str:
    """A comma, or the other delimiter that divides a header without commas and the first row alike.

    A first line `sep=;`, as Excel writes it, says it.
    """
    lines = list(islice((line for line in file if line.strip()), 2))
    if lines and (declared := DECLARED.fullmatch(lines[0])):
        return declared[1]
    if not lines or "," in lines[0]:
        return ","
    for delimiter in OTHER_DELIMITERS:
        widths = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
        if len(widths) == 1 and widths.pop() > 1:
            return delimiter
    return ","


def delimited_tables(file: TextIO, dialect: Dialect, source: str, rows: int) -> Iterator[pd.DataFrame]:
    """The table in blocks of at most `rows` rows; the first comes even where it has none.

    Raises:
        InputError: no header, a row with more or fewer cells than it, or a quote that is not closed where it should
            be; the line is named.
    """
    lines = _Lines(file)
    quoting = csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=dialect.delimiter, quoting=quoting, strict=True)
    with _long_cells():
        rows_of_header = (row for _, row, _ in _rows(reader, lines, source) if row and row != DECLARATION)
        header = next(rows_of_header, None)
    if header is None:
        raise InputError(f"{source} is empty; expected a header and rows")
    names = column_names(header, source)
    records = _checked(_rows(reader, lines, source), header, dialect, source)
    first = True
    while True:
        with _long_cells():
            block = list(islice(records, rows))
        if not block and not first:
            return
        first = False
        if dialect.quoted:
            require_no_swallowed_rows(block, dialect.delimiter, source)
        columns = zip(*(row for row, _ in block), strict=True) if block else [()] * len(names)
        table = {name: _column(cells) for name, cells in zip(names, columns, strict=True)}
        yield with_written_names(pd.DataFrame(table), header)


def _column(cells: tuple[str, ...]) -> pd.Series:
    """Only an empty cell is missing: "None", "NA" and "null" are words, and may be classes."""
    return pd.Series([cell or None for cell in cells], dtype=object).astype(TEXT)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Cells of any length; the limit belongs to the whole process, so it is put back."""
    before = csv.field_size_limit(LARGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _rows(reader: object, lines: _Lines, source: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """For each row, the number of its first line, its cells and its lines."""
    while True:
        first = reader.line_num + 1  # type: ignore[attr-defined]
        lines.kept.clear()
        try:
            row = next(reader)  # type: ignore[call-overload]
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(_quote_fault(source, first, len(lines.kept), str(error))) from error
        yield first, row, lines.kept


def _quote_fault(source: str, first: int, count: int, error: str) -> str:
    where = f"{source}, line {first}" if count < 2 else f"{source}, lines {first} to {first + count - 1}"
    cure = 'write "" for a quote inside a cell that stands in quotes, or save the table as .tsv, which has no quoting'
    if "unexpected end" in error:
        return f"{source}, line {first}: a quote opens a cell and is closed nowhere before the end of the file; {cure}"
    if "expected after" in error:
        return f"{where}: text follows the quote that closes a cell; {cure}"
    return f"{where} cannot be read: {error}"


def _checked(
    rows: Iterator[tuple[int, list[str], list[str]]], header: list[str], dialect: Dialect, source: str
) -> Iterator[tuple[list[str], LongRow | None]]:
    """The rows as wide as the header, each with its lines if they are several; blank lines are left out."""
    width = len(header)
    ends = (
        "quote texts that hold line ends"
        if dialect.quoted
        else "a tsv has no quoting, so a text holds no line end"
    )
    cure = "quote texts that hold commas" if dialect.delimiter == "," else "quote texts that hold it"
    cure = cure if dialect.quoted else "a tsv has no quoting, so a text cannot hold a tab"
    for first, row, lines in rows:
        if not row or (len(row) == 1 < width and not row[0].strip()):
            continue
        if len(row) > width:
            raise InputError(
                f"{source}, line {first}: more cells than the header ({len(row)}, not {width}); {cure}"
            )
        if len(row) < width:
            raise InputError(
                f"{source}, line {first}: fewer cells than the header ({len(row)}, not {width}); add the "
                f"missing ones ({ends})"
            )
        yield row, LongRow(first, tuple(lines)) if len(lines) > 1 else None
