"""Tables to files, and checks that an output can be written without losing another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corefold.errors import InputError
from corefold.tables.formats import COMPRESSIONS, TEXT_FORMATS, load_openpyxl

if TYPE_CHECKING:
    import pandas as pd

TABLE_SUFFIXES = (
    ".csv", ".tsv", ".jsonl", ".parquet", ".json", ".xlsx",
    *(kind + compression for kind in TEXT_FORMATS for compression in COMPRESSIONS),
)  # fmt: skip


def check_file(path: Path, overwrite: bool, suffixes: Sequence[str], option: str = "--overwrite") -> None:
    """Raise InputError unless a file of that name can be written without losing another.

    Args:
        path: the file.
        overwrite: whether it may exist.
        suffixes: endings that its name may have.
        option: of the command line, to name where the file exists.
    """
    if not path.name.lower().endswith(tuple(suffixes)):
        raise InputError(f"{path}: expected a name ending in one of {', '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the name of a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another name or add {option}")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")
    if path.suffix.lower() == ".xlsx":
        load_openpyxl()


def check_folder(path: Path, overwrite: bool, option: str = "--overwrite") -> None:
    """Raise InputError unless `path` can become an output folder: new, empty, or one to overwrite. It makes nothing."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; -o names a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise InputError(f"{path} is not empty; choose another -o or add {option}")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table in the format of the name's ending, one of `TABLE_SUFFIXES`.

    Raises:
        InputError: a cell that the format cannot hold.
    """
    from corefold.tables.table_writer import (
        TableWriter,
    )  # It loads pandas, which the checks above do not need.

    with TableWriter(path) as writer:
        writer.write(table)
