"""jsonl and json files to which tables are appended."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from corefold.tables.cells import ABSENT, json_cells, json_value
from corefold.tables.formats import open_bytes


class JsonFile:
    """A jsonl file."""

    def __init__(self, path: Path) -> None:
        self.file = io.TextIOWrapper(open_bytes(path, "wb"), encoding="utf-8", newline="")

    def append(self, table: pd.DataFrame) -> None:
        """Add rows."""
        for line in json_lines(table):
            self.file.write(line + "\n")

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


class JsonArrayFile(JsonFile):
    """A json file with an array of objects."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.before = "[\n"

    def append(self, table: pd.DataFrame) -> None:
        """Add rows."""
        for line in json_lines(table):
            self.file.write(self.before + line)
            self.before = ",\n"

    def close(self) -> None:
        """Finish the file."""
        self.file.write("\n]\n" if self.before == ",\n" else "[]\n")
        super().close()


def json_lines(table: pd.DataFrame) -> list[str]:
    """Each row as JSON; a gap is null, and in a column of objects NaN stands for a key that the row does not have."""
    names = [str(name) for name in table.columns]
    columns = [json_cells(table.iloc[:, place]) for place in range(len(names))]
    rows = zip(*columns, strict=True) if columns else iter(())
    return [
        _json({name: cell for name, cell in zip(names, row, strict=True) if cell is not ABSENT})
        for row in rows
    ]


def _json(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, default=json_value)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write by its number
        return json.dumps(row, default=json_value)
    return text
