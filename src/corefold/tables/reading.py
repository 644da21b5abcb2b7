"""Tables of files, of folders of `datasets.save_to_disk` and of the Hugging Face hub, whose cells stay as they are.

A cell of csv and tsv is the string that was written, and only an empty one is missing. Values of JSON, parquet,
feather, xlsx and data sets keep their types. Whoever needs numbers converts them: `corefold.tables.columns`.
"""

from __future__ import annotations

import csv
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from corefold.errors import InputError
from corefold.tables.arrow_tables import data_set_table, feather_table, parquet_tables
from corefold.tables.delimited import Dialect, delimited_tables, guess_delimiter, parse_delimiter
from corefold.tables.formats import FORMAT_LIST, format_of, open_text
from corefold.tables.header import require_unique
from corefold.tables.json_rows import json_tables
from corefold.tables.sheets import read_sheet
from corefold.tables.unquoted import unquoted_table

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK_ROWS = (
    50_000  # of a file that is read as a whole: few enough that their lists of cells need little memory
)
QUOTES_SHOWN = (
    "of its cells stand in quotes, which are part of the text (a tsv has no quoting); save it as .csv if not"
)


@dataclass(frozen=True)
class Reading:
    """How the text of csv, tsv and JSON files is read; None stands for what the file itself suggests.

    Attributes:
        encoding: name of the encoding.
        delimiter: the character between cells.
    """

    encoding: str | None = None
    delimiter: str | None = None


def read_table(
    source: str,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    notes: list[str] | None = None,
) -> pd.DataFrame:
    """The rows of a file, of a folder of `save_to_disk`, or of a hub data set `NAME[:CONFIG]:SPLIT`.

    Args:
        source: a csv, tsv, jsonl, json, parquet, feather or xlsx file, those of text compressed or not; or a folder,
            which is written `FOLDER:SPLIT` if it has splits.
        encoding: encoding of a file of text. Default: utf-8, or that of which it has the mark at its beginning.
        delimiter: character between the cells of a csv or tsv file. Default: a tab in tsv; in csv a comma, or the
            `;`, tab or `|` that alone divides the header.
        notes: a list that gets a line for each guess.

    Raises:
        InputError: not found, not readable or empty.
    """
    notes = [] if notes is None else notes
    reading = Reading(encoding, delimiter)
    if (table := _fast_table(source, reading, notes)) is not None:
        return table
    blocks = list(blocks_of(source, BLOCK_ROWS, reading, notes))
    table = blocks[0] if len(blocks) == 1 else pd.concat(blocks, ignore_index=True)
    table.attrs.update(blocks[0].attrs)
    return table


def _fast_table(source: str, reading: Reading, notes: list[str]) -> pd.DataFrame | None:
    """The table of a csv or tsv file that is as plain as most; None where the way for all files must be taken."""
    path = Path(source)
    kind = format_of(path)
    if kind not in (".csv", ".tsv") or not path.is_file():
        return None
    if (reading.encoding or "utf-8").lower().replace("_", "-") not in ("utf-8", "utf8", "utf-8-sig"):
        return None
    guesses: list[str] = []
    with _one_line(source):
        dialect = _dialect(path, kind, reading, guesses)
        table = unquoted_table(path, dialect, source)
    if table is None:
        return None
    if kind == ".tsv":
        _note_quotes(table, source, guesses)
    notes.extend(guesses)
    return table


def blocks_of(source: str, rows: int, reading: Reading, notes: list[str]) -> Iterator[pd.DataFrame]:
    """The table in blocks of at most `rows` rows, at least one, where the format allows it.

    Raises:
        InputError: not found, not readable or empty.
    """
    path = Path(source)
    kind = format_of(path)
    if path.is_dir() or (kind is None and not path.exists()):
        tables = iter([_data_set(source)])
    elif not path.exists():
        raise InputError(f"{source}: no such file")
    elif kind is None:
        raise InputError(f"{source}: expected one of {FORMAT_LIST}")
    else:
        tables = _blocks_of_file(path, kind, source, rows, reading, notes)
    empty = True
    with _one_line(source):
        for table in tables:
            require_unique(list(table.columns), source)
            empty = empty and table.empty
            yield table
    if empty:
        raise InputError(f"{source} has no rows")


@contextmanager
def _one_line(source: str) -> Iterator[None]:
    """Errors of the libraries that read files as InputError."""
    try:
        yield
    except InputError:
        raise
    # pandas and pyarrow raise subclasses of the first two; the others come from files that were cut.
    except (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError, csv.Error) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{source} cannot be read: {line}") from error


def _blocks_of_file(
    path: Path, kind: str, source: str, rows: int, reading: Reading, notes: list[str]
) -> Iterator[pd.DataFrame]:
    match kind:
        case ".csv" | ".tsv":
            dialect = _dialect(path, kind, reading, notes)
            with open_text(path, reading.encoding, notes) as file:
                for table in delimited_tables(file, dialect, source, rows):
                    if kind == ".tsv":
                        _note_quotes(table, source, notes)
                    yield table
        case ".jsonl" | ".json":
            with open_text(path, reading.encoding, notes) as file:
                yield from json_tables(file, source, rows, one_row_a_line=kind == ".jsonl")
        case ".parquet":
            yield from parquet_tables(path, rows)
        case ".feather":
            yield feather_table(path)
        case _:
            yield read_sheet(path, source, notes)


def _dialect(path: Path, kind: str, reading: Reading, notes: list[str]) -> Dialect:
    """The dialect that the settings or the ending name, or for csv that the header suggests."""
    if reading.delimiter is not None:
        return Dialect(parse_delimiter(reading.delimiter), quoted=kind == ".csv")
    if kind == ".tsv":
        return Dialect("\t", quoted=False)
    with open_text(path, reading.encoding) as file:
        delimiter = guess_delimiter(file)
    if delimiter != ",":
        notes.append(f"{path}: cells are separated by {delimiter!r}; --delimiter changes that")
    return Dialect(delimiter)


def _note_quotes(table: pd.DataFrame, source: str, notes: list[str]) -> None:
    """Say it once where cells of a tsv look as if another program had quoted them."""
    if any(note.endswith(QUOTES_SHOWN) for note in notes):
        return
    quoted = sum(int(table[name].str.fullmatch(r'".+"').sum()) for name in table.columns)
    if quoted:
        notes.append(f"{source}: {quoted} {QUOTES_SHOWN}")


def _data_set(source: str) -> pd.DataFrame:
    """A folder of `save_to_disk`, or a data set of the hub."""
    from datasets import Dataset, DatasetDict, load_from_disk

    folder, split = source, None
    if not Path(source).is_dir() and ":" in source and Path(source.rpartition(":")[0]).is_dir():
        folder, _, split = source.rpartition(":")
    saved = Path(folder)
    if not any((saved / name).exists() for name in ("dataset_dict.json", "state.json")):
        if saved.is_dir() and split is None:
            raise InputError(f"{source} is a folder; expected a file, or a folder of datasets' save_to_disk")
        return data_set_table(_hub(source))
    with _one_line(source):
        rows: Any = load_from_disk(folder)
    if isinstance(rows, DatasetDict):
        if split not in rows:
            raise InputError(
                f"{folder} has the splits {', '.join(map(str, rows))}; write {folder}:{next(iter(rows), '')}"
            )
        rows = rows[split]
    elif split is not None:
        raise InputError(f"{folder} has no splits; write it without :{split}")
    if not isinstance(rows, Dataset):
        raise InputError(f"{source} is not one split of a data set")
    return data_set_table(rows)


def _hub(source: str) -> Dataset:
    from datasets import Dataset, load_dataset

    name, *rest = source.split(":")
    if len(rest) not in (1, 2):
        raise InputError(f"{source}: no such file; a hub data set is written NAME:SPLIT or NAME:CONFIG:SPLIT")
    try:
        rows = load_dataset(name, *rest[:-1], split=rest[-1])
    except Exception as error:  # hub, network and builder errors share no base class
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{source}: neither a file nor a hub data set that loads: {first_line}") from error
    if not isinstance(rows, Dataset):
        raise InputError(f"{source} is not one split of a data set")
    return rows
