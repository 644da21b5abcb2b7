"""xlsx files: the first sheet, whose cells have the types that they have there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from corefold.errors import InputError
from corefold.tables.formats import load_openpyxl
from corefold.tables.header import column_names, with_written_names


def read_sheet(path: Path, source: str, notes: list[str]) -> pd.DataFrame:
    """The table of the first sheet; rows without any cell are left out. `notes` gets a line if there are others.

    Raises:
        InputError: openpyxl is missing, no xlsx file, or no header.
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
        lines = book.worksheets[0].iter_rows(values_only=True)
        filled = [list(line) for line in lines if any(cell is not None for cell in line)]
    finally:
        book.close()
    if not filled:
        raise InputError(f"{source} is empty; expected a header and rows")
    width = max(place for line in filled for place, cell in enumerate(line, 1) if cell is not None)
    padded = [[*line, *[None] * (width - len(line))][:width] for line in filled]
    header = ["" if cell is None else str(cell) for cell in padded[0]]
    names = column_names(header, source)
    columns = zip(*padded[1:], strict=True) if padded[1:] else [()] * width
    table = {name: pd.Series(cells, dtype=object) for name, cells in zip(names, columns, strict=True)}
    return with_written_names(pd.DataFrame(table), header)
