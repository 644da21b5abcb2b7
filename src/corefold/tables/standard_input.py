"""Standard input in the place of a file of a table."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from corefold.errors import InputError

STANDARD_INPUT = "-"
NAME = "standard input"
STARTS = (
    (b"PAR1", ".parquet"),
    (b"\x1f\x8b", ".csv.gz"),
    (b"ARROW1", ".feather"),
    (b"{", ".jsonl"),
    (b"[", ".json"),
)  # and the ending of a file's name that begins so
ZIP = b"PK\x03\x04"


def name_of(source: Path) -> str:
    """The name of a source in messages."""
    return NAME if str(source) == STANDARD_INPUT else str(source)


@contextmanager
def file_of(source: Path, notes: list[str]) -> Iterator[Path]:
    """The file; where its name is `-`, one with what comes through standard input, whose notes and errors say so.

    Args:
        source: the file.
        notes: a list that gets notes in the block.

    Raises:
        InputError: standard input holds nothing, or a format that only a file's name tells from another.
    """
    if str(source) != STANDARD_INPUT:
        yield source
        return
    first = len(notes)
    with TemporaryDirectory() as folder:
        path = _saved(Path(folder))
        try:
            yield path
        except InputError as error:
            raise InputError(str(error).replace(str(path), NAME)) from error
        finally:
            notes[first:] = [note.replace(str(path), NAME) for note in notes[first:]]


def _saved(folder: Path) -> Path:
    path = folder / "input"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    with path.open("rb") as file:
        start = file.read(4096)
    if not start.strip():
        raise InputError(f"{NAME} is empty; expected a table")
    if start.startswith(ZIP):
        raise InputError(f"{NAME} holds a zip, xlsx or npz file; give the file by its name")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    ending = next(
        (ending for begin, ending in STARTS if start.startswith(begin) or text.startswith(begin)), ".csv"
    )
    return path.rename(path.with_name("input" + ending))
