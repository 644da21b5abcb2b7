"""xlsx files: the first sheet, whose cells have the types that they have there."""

from __future__ import annotations

import re
from pathlib import Path
from zipfile import ZipFile

import pandas as pd

from corefold.errors import InputError
from corefold.tables.formats import load_openpyxl
from corefold.tables.header import column_names, with_written_names

FORMULA = re.compile(rb"<(\w+:)?f[ >/]")


def read_sheet(path: Path, source: str, notes: list[str]) -> pd.DataFrame:
    """The table of the first sheet; rows without any cell are left out. `notes` gets a line if there are others.

    Raises:
        InputError: openpyxl is missing, no xlsx file, no header, or a formula whose value the file does not hold.
    """
    openpyxl = load_openpyxl()
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # openpyxl, zipfile and xml errors share no base class
        raise InputError(f"{source} cannot be read: it is no xlsx file") from error
    try:
        if len(book.worksheets) > 1:
            names = ", ".join(repr(each.title) for each in book.worksheets[1:])
            notes.append(
                f"{source}: only the first sheet is read, not {names}; for these, save each as a file"
            )
        lines = [list(line) for line in book.worksheets[0].iter_rows(values_only=True)]
    finally:
        book.close()
    if _has_formulas(path):
        _require_values(path, source, lines)
    filled = [line for line in lines if any(cell is not None for cell in line)]
    if not filled:
        raise InputError(f"{source} is empty; expected a header and rows")
    width = max(place for line in filled for place, cell in enumerate(line, 1) if cell is not None)
    padded = [[*line, *[None] * (width - len(line))][:width] for line in filled]
    header = ["" if cell is None else str(cell) for cell in padded[0]]
    names = column_names(header, source)
    columns = zip(*padded[1:], strict=True) if padded[1:] else [()] * width
    table = {name: pd.Series(cells, dtype=object) for name, cells in zip(names, columns, strict=True)}
    return with_written_names(pd.DataFrame(table), header)


def _has_formulas(path: Path) -> bool:
    with ZipFile(path) as parts:
        sheets = [name for name in parts.namelist() if name.startswith("xl/worksheets/")]
        return any(FORMULA.search(parts.read(name)) for name in sheets)


def _require_values(path: Path, source: str, lines: list[list[object]]) -> None:
    """Refuse a sheet with formulas that no program has computed: libraries write them without a value."""
    book = load_openpyxl().load_workbook(path, read_only=True)
    try:
        for row, line in zip(lines, book.worksheets[0].iter_rows(), strict=False):
            for value, cell in zip(row, line, strict=False):
                if value is None and cell.data_type == "f":
                    raise InputError(
                        f"{source}: cell {cell.coordinate} holds the formula {cell.value} and no value; open the file "
                        "in a spreadsheet program and save it, or write the values"
                    )
    finally:
        book.close()
