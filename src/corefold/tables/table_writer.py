"""Tables written in chunks to a file that appears when all of them are written.

Cells go out as they came in. csv and tsv get the strings of csv and tsv unchanged; jsonl and parquet get values of
their types, and jsonl no key that a row did not have.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Protocol

import pandas as pd

from corefold.errors import InputError
from corefold.tables.atomic import atomic_write
from corefold.tables.delimited_file import DelimitedFile
from corefold.tables.formats import format_of
from corefold.tables.json_file import JsonArrayFile, JsonFile
from corefold.tables.parquet_file import ParquetFile
from corefold.tables.sheet_file import SheetFile


class TableFile(Protocol):
    """A file of one format that takes tables with the same columns, one behind the other."""

    def append(self, table: pd.DataFrame) -> None:
        """Add rows."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class TableWriter:
    """Writes chunks of a table; the file takes its place when the `with` block ends without an error.

        with TableWriter(path) as writer:
            for chunk in read_chunks(source):
                writer.write(chunk)

    Args:
        path: the file, its name with one of `TABLE_SUFFIXES` at its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._columns: list[str] | None = None
        self._atomic: AbstractContextManager[Path] = atomic_write(path)

    def __enter__(self) -> TableWriter:
        new = self._atomic.__enter__()
        try:
            self._file = _file_of(new)
        except BaseException as error:
            self._atomic.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def check(self, table: pd.DataFrame) -> None:
        """Raise what `write` would raise for these rows, and write nothing: before hours of work on them."""
        with TemporaryDirectory() as folder:
            trial = TableWriter(Path(folder, self.path.name))
            try:
                with trial:
                    trial.write(table)
            except InputError as error:
                raise InputError(str(error).replace(str(trial.path), str(self.path))) from error

    def write(self, table: pd.DataFrame) -> None:
        """Add the rows of a table.

        Raises:
            InputError: a cell that the format cannot hold, or other columns than in the first chunk.
        """
        columns = [str(name) for name in table.columns]
        if self._columns is not None and columns != self._columns:
            raise InputError(
                f"{self.path}: rows with the columns {', '.join(columns)} behind rows with {', '.join(self._columns)}"
            )
        self._columns = columns
        try:
            self._file.append(table)
        except UnicodeEncodeError as error:
            raise InputError(
                f"{self.path}: a text holds half of a surrogate pair, {error.object[error.start]!r}, which UTF-8 "
                "cannot write; write .jsonl"
            ) from error
        self.rows += len(table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except BaseException as failure:
            # A half-written file must not take the place of the old one.
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            if error is None:
                raise
            return
        self._atomic.__exit__(kind, error, trace)


def _file_of(path: Path) -> TableFile:
    kinds: dict[str | None, Callable[[Path], TableFile]] = {
        ".csv": lambda path: DelimitedFile(path, ","),
        ".tsv": lambda path: DelimitedFile(path, "\t"),
        ".jsonl": JsonFile,
        ".json": JsonArrayFile,
        ".xlsx": SheetFile,
    }
    return kinds.get(format_of(path), ParquetFile)(path)
