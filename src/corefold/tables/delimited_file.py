"""csv and tsv files to which tables are appended."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from corefold.errors import InputError
from corefold.tables.cells import delimited_cells
from corefold.tables.formats import open_bytes
from corefold.tables.header import written_names

UNWRITABLE_IN_TSV = r"[\t\r\n]"


class DelimitedFile:
    """A csv or tsv file."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self.name = path.name
        self.delimiter = delimiter
        self.file = io.TextIOWrapper(open_bytes(path, "wb"), encoding="utf-8", newline="")
        self.rows = 0
        self.has_header = False

    def append(self, table: pd.DataFrame) -> None:
        """Add rows, after the header if they are the first."""
        header = written_names(table) if not self.has_header else False
        cells = delimited_cells(table)
        texts = [cells[name] for name in cells if not pd.api.types.is_numeric_dtype(cells[name])]
        if self.delimiter == "\t":
            self._require_no_tabs(texts)
            self._require_no_tabs([pd.Series([str(name)], name=name) for name in table.columns])
            options: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
        else:
            # csv quotes line feeds by itself and forgets carriage returns, which end a line as well.
            bare = any(text.astype(str).str.contains("\r", regex=False).any() for text in texts)
            options = {"quoting": csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL}
        cells.to_csv(self.file, index=False, header=header, sep=self.delimiter, **options)
        self.has_header = True
        self.rows += len(table)

    def _require_no_tabs(self, texts: list[pd.Series]) -> None:
        for text in texts:
            bad = np.flatnonzero(text.astype(str).str.contains(UNWRITABLE_IN_TSV))
            if len(bad):
                raise InputError(
                    f"{self.name}, row {self.rows + bad[0] + 1}: column {text.name!r} holds a tab or a line end, "
                    "which a tsv cannot; write .csv or .jsonl"
                )

    def close(self) -> None:
        """Finish the file."""
        self.file.close()
