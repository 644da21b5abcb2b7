"""csv and tsv files without quotes: Arrow's parser reads them as `delimited` would, several times faster."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from corefold.errors import InputError
from corefold.tables.delimited import DECLARATION, TEXT, Dialect
from corefold.tables.formats import open_bytes, open_text
from corefold.tables.header import column_names, with_written_names

PIECE_BYTES = 2**24  # searched at a time
BLOCK_BYTES, LINE_BYTES = 2**20, 2**10  # of a file and for each column: Arrow reads no line beyond a block
LONE_RETURN = re.compile(rb"\r(?!\n)")


def unquoted_table(path: Path, dialect: Dialect, source: str) -> pd.DataFrame | None:
    """The table of a file in UTF-8, or None where only `delimited` can read it or say what is wrong with it.

    Raises:
        InputError: two columns have the same name.
    """
    try:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv
    except ImportError:  # pandas does without it
        return None

    if TEXT != "str" or not _is_plain(path, dialect):
        return None
    header, lines = _header(path, dialect.delimiter)
    if not header:
        return None
    names, places = column_names(header, source), [str(place) for place in range(len(header))]
    text = pa.large_string()
    try:
        with _opened(path) as file:
            table = arrow_csv.read_csv(
                file,
                arrow_csv.ReadOptions(
                    skip_rows=lines, column_names=places, block_size=BLOCK_BYTES + LINE_BYTES * len(header)
                ),
                arrow_csv.ParseOptions(delimiter=dialect.delimiter, quote_char=False),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(places, text), null_values=[""], strings_can_be_null=True
                ),
            )
    except (
        pa.ArrowException,
        ValueError,
        UnicodeError,
    ):  # among them rows that are not as wide as the header
        return None
    if not table.num_rows:
        return None
    kind = pd.StringDtype("pyarrow", na_value=np.nan)
    # Without a cast each column stays the memory that Arrow has read it into.
    columns = {name: pd.array(table.column(place), dtype=kind) for place, name in enumerate(names)}
    return with_written_names(pd.DataFrame(columns, copy=False), header)


def _is_plain(path: Path, dialect: Dialect) -> bool:
    """Whether there is no quote that quotes, no zero byte, no mark of UTF-16, and no line end that Arrow has not."""
    forbidden = (b"\0", b'"') if dialect.quoted else (b"\0",)
    with open_bytes(path) as file:
        ends_in_return = False
        for piece in iter(lambda: file.read(PIECE_BYTES), b""):
            if ends_in_return and not piece.startswith(b"\n"):
                return False
            ends_in_return = piece.endswith(b"\r")
            if any(each in piece for each in forbidden) or LONE_RETURN.search(piece.removesuffix(b"\r")):
                return False
    return not ends_in_return


def _header(path: Path, delimiter: str) -> tuple[list[str], int]:
    """The cells of the header, and how many lines it and those before it take."""
    try:
        with open_text(path, "utf-8") as file:
            for count, line in enumerate(file, 1):
                row = line.rstrip("\r\n")
                cells = next(csv.reader([row], delimiter=delimiter, quoting=csv.QUOTE_NONE), [])
                if cells and cells != DECLARATION:
                    return cells, count
    except InputError:  # bytes that are no text, which the other way names
        pass
    return [], 0


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file as Arrow reads it fastest."""
    import pyarrow as pa

    plain: IO[bytes] = open_bytes(path)
    with plain:
        if type(plain).__module__ == "_io" and path.stat().st_size:
            with pa.memory_map(str(path)) as mapped:
                yield mapped
        else:
            yield plain


def release_memory() -> None:
    """Give the memory of tables that are gone back to the system; Arrow would keep it for other tables."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
