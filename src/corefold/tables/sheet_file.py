"""xlsx files to which tables are appended."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from corefold.errors import InputError
from corefold.tables.cells import ABSENT, json_cells, plain_cell
from corefold.tables.formats import load_openpyxl
from corefold.tables.header import written_names

MAX_ROWS, MAX_LETTERS = 1_048_576, 32_767  # of a sheet, with the header, and of a cell


class SheetFile:
    """An xlsx file."""

    def __init__(self, path: Path) -> None:
        self.sheet = _Sheet(path)
        path.touch()

    def append(self, table: pd.DataFrame) -> None:
        """Add rows, after the header if they are the first."""
        if not self.sheet.rows:
            self.sheet.append(list(written_names(table)))
        columns = [json_cells(table.iloc[:, place]) for place in range(table.shape[1])]
        for row in zip(*columns, strict=True):
            self.sheet.append([_sheet_cell(cell) for cell in row])

    def close(self) -> None:
        """Finish the file."""
        self.sheet.close()


def _sheet_cell(cell: Any) -> Any:
    """Whole numbers beyond those that a sheet's floats tell apart become text, as do times with a zone."""
    if cell is ABSENT or cell is None:
        return None
    if isinstance(cell, bool | float | str) or (isinstance(cell, int) and abs(cell) < 2**53):
        return cell
    if isinstance(cell, datetime) and cell.tzinfo is None:
        return pd.Timestamp(cell).to_pydatetime()
    if type(cell) is date:
        return cell
    return str(plain_cell(cell))


class _Sheet:
    """An xlsx file to which rows are appended.

    Raises:
        InputError: openpyxl is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.book = load_openpyxl().Workbook(write_only=True)
        self.sheet = self.book.create_sheet()
        self.rows = 0

    def append(self, cells: list[Any]) -> None:
        """Add a row.

        Raises:
            InputError: a cell or a sheet that is too large, or a letter that a sheet cannot hold.
        """
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.utils.exceptions import IllegalCharacterError

        self.rows += 1
        if self.rows > MAX_ROWS:
            raise InputError(f"{self.path.name}: a sheet holds {MAX_ROWS:,} rows; write .csv or .parquet")
        row = []
        for cell in cells:
            if isinstance(cell, str) and len(cell) > MAX_LETTERS:
                raise InputError(
                    f"{self.path.name}, row {self.rows - 1}: a cell of a sheet holds {MAX_LETTERS:,} letters and "
                    f"this text has {len(cell):,}; write .csv or .jsonl"
                )
            try:
                made = WriteOnlyCell(self.sheet, value=cell)
            except (IllegalCharacterError, ValueError) as error:
                raise InputError(
                    f"{self.path.name}, row {self.rows - 1}: a sheet cannot hold {cell!r}; write .csv or .jsonl"
                ) from error
            if isinstance(cell, str):
                made.data_type = "s"  # otherwise a text that begins with "=" would become a formula
            row.append(made)
        self.sheet.append(row)

    def close(self) -> None:
        """Write the file."""
        self.book.save(self.path)
