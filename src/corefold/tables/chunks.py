"""Tables in chunks, so that a file may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from corefold.tables.reading import Reading, blocks_of

CHUNK_ROWS = 10_000


class TableChunks:
    """A table that is iterated in chunks of rows, as often as one likes.

    The whole table is read once before, so that a fault in its last row is found before the first is used. csv, tsv,
    jsonl and parquet then need memory for one chunk only, compressed or not; other formats are read at once.

    Each chunk has all columns, and an index that counts the rows of the whole table from 0.

    Attributes:
        columns: the names of the columns, in order.
        rows: the number of rows.
    """

    def __init__(self, source: str, size: int, reading: Reading, notes: list[str]) -> None:
        self._source, self._size, self._reading = source, size, reading
        self.rows = 0
        names: dict[str, None] = {}
        for block in blocks_of(source, size, reading, notes):
            self.rows += len(block)
            names.update(dict.fromkeys(block.columns))
        self.columns = list(names)

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[pd.DataFrame]:
        start = 0
        for block in blocks_of(self._source, self._size, self._reading, []):
            for first in range(0, len(block), self._size):
                chunk = block.iloc[first : first + self._size]
                if list(chunk.columns) != self.columns:  # Keys of jsonl may occur late.
                    chunk = chunk.reindex(columns=pd.Index(self.columns, dtype=object)).astype(object)
                yield chunk.set_axis(pd.RangeIndex(start, start + len(chunk)), axis=0)
                start += len(chunk)


def read_chunks(
    source: str,
    rows: int = CHUNK_ROWS,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    notes: list[str] | None = None,
) -> TableChunks:
    """The table of `source` in chunks of at most `rows` rows; the arguments are those of `read_table`.

    Raises:
        InputError: not found, not readable or empty.
    """
    return TableChunks(source, rows, Reading(encoding, delimiter), [] if notes is None else notes)
