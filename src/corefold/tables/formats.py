"""Endings of file names: which format a table has, how it is compressed, and how its bytes become text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from corefold.errors import InputError

TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".json")
FORMATS = (*TEXT_FORMATS, ".parquet", ".feather", ".xlsx")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
ARCHIVE = ".zip"  # with one file of text in it; it is read and not written
FORMAT_LIST = f"{', '.join(FORMATS)} (those of text also with {', '.join((*COMPRESSIONS, ARCHIVE))} behind)"
ENCODING_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # It begins with the mark of UTF-16, so it is looked for first.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def format_of(path: Path) -> str | None:
    """One of `FORMATS`, or None where the name ends in none of them."""
    name = path.name.lower()
    if name.endswith(ARCHIVE) and path.is_file():
        name = Path(only_member(path)).name.lower()
        suffix = Path(name).suffix
        return suffix if suffix in TEXT_FORMATS else None
    ending = next((each for each in COMPRESSIONS if name.endswith(each)), "")
    suffix = Path(name.removesuffix(ending)).suffix
    return suffix if suffix in (TEXT_FORMATS if ending else FORMATS) else None


def only_member(path: Path) -> str:
    """The name of the one file in a zip file.

    Raises:
        InputError: no zip file, or not one file in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                each.filename
                for each in archive.infolist()
                # macOS puts files of its own beside those that were chosen.
                if not each.is_dir() and not each.filename.startswith("__MACOSX/")
            ]
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if len(names) != 1:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise InputError(
            f"{path} holds {len(names)} files; expected one of {', '.join(TEXT_FORMATS)} ({shown})"
        )
    return names[0]


def _open_member(path: Path) -> IO[bytes]:
    with zipfile.ZipFile(path) as archive:  # The file in it keeps what it needs open.
        try:
            return archive.open(only_member(path))
        except RuntimeError as error:  # it has a password
            raise InputError(f"{path} cannot be read: {error}") from error


def load_openpyxl() -> Any:
    """The package, which is optional.

    Raises:
        InputError: it is missing.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise InputError("xlsx files need openpyxl; install it with: pip install openpyxl") from error
    return openpyxl


def open_bytes(path: Path, mode: Literal["rb", "wb"] = "rb") -> IO[bytes]:
    """The content of a file, compressed or not by the ending of its name."""
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path, mode)  # type: ignore[return-value]
        case ".bz2":
            return bz2.open(path, mode)  # type: ignore[return-value]
        case ".xz":
            return lzma.open(path, mode)  # type: ignore[return-value]
        case ".zst":
            import pyarrow as pa  # Before Python 3.14 the standard library has no Zstandard.

            make = pa.input_stream if mode == "rb" else pa.output_stream
            return make(str(path), compression="zstd")
        case ".zip" if mode == "rb":
            return _open_member(path)
        case _:
            return path.open(mode)


@contextmanager
def open_text(path: Path, encoding: str | None, notes: list[str] | None = None) -> Iterator[io.TextIOWrapper]:
    """The text of a file, with its line ends as they stand and without a mark of the encoding at its beginning.

    Args:
        path: the file, compressed or not.
        encoding: its encoding; by default UTF-8, or that of which the file has the mark at its beginning.
        notes: a list that gets a line where the encoding was guessed.

    Raises:
        InputError: an encoding that Python does not know, or bytes that it cannot read in the block.
    """
    chosen = encoding or _marked_encoding(path) or "utf-8-sig"
    if encoding is None and chosen != "utf-8-sig" and notes is not None:
        notes.append(f"{path} is read as {chosen}, whose mark it begins with; --encoding changes that")
    if chosen.lower().replace("_", "-") in ("utf-8", "utf8"):
        chosen = "utf-8-sig"  # It is UTF-8, and leaves out a mark.
    with open_bytes(path) as file:
        try:
            text = io.TextIOWrapper(file, encoding=chosen, newline="")
        except LookupError as error:
            raise InputError(
                f"--encoding {chosen}: Python knows no such encoding; utf-8, cp1252, latin-1 and utf-16 are usual"
            ) from error
        try:
            yield text
        except UnicodeError as error:  # UTF-16 without a mark raises this base class itself.
            raise InputError(_undecodable(path, chosen)) from error


def _marked_encoding(path: Path) -> str | None:
    with open_bytes(path) as file:
        start = file.read(4)
    return next((name for mark, name in ENCODING_MARKS if start.startswith(mark)), None)


def _undecodable(path: Path, encoding: str) -> str:
    """The message for bytes that are no text, with the line of the first."""
    name = "utf-8" if encoding == "utf-8-sig" else encoding
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                if name.startswith(("utf-16", "utf-32")):
                    break  # Their lines do not end at the byte of a line end.
                return (
                    f"{path}, line {number}: the byte 0x{line[error.start]:02x} is not {name}; add --encoding with "
                    "the encoding of the file (cp1252 is usual on Windows, latin-1 reads every byte), or save it as "
                    "utf-8"
                )
    return f"{path} is not {name}; add --encoding with the encoding of the file, or save it as utf-8"
