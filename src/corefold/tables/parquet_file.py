"""A parquet file that takes tables whose types widen from one to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from corefold.errors import InputError


class ParquetFile:
    """A parquet file to which tables are appended.

    A column may be whole numbers in one table and fractions, or nothing at all, in another. Its type then becomes
    the one that holds both, and what is written so far is written again with it, a group of rows at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: Any = None
        path.touch()

    def append(self, table: pd.DataFrame) -> None:
        """Add rows.

        Raises:
            InputError: a column with values of types that have none in common.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = pa.table({str(name): self._array(table[name]) for name in table.columns})
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, rows.schema)
        elif rows.schema != self.writer.schema:
            try:
                wider = pa.unify_schemas([self.writer.schema, rows.schema], promote_options="permissive")
            except pa.ArrowException as error:
                raise self._mixed(str(error)) from error
            if wider != self.writer.schema:
                self._rewrite(wider)
            rows = rows.cast(wider)
        self.writer.write_table(rows)

    def _array(self, column: pd.Series) -> Any:
        import pyarrow as pa

        if column.dtype == object:  # NaN marks a key that a row of jsonl does not have
            column = column.astype(object).where(column.notna(), None)
        try:
            return pa.array(column, from_pandas=True)
        except (pa.ArrowException, OverflowError) as error:
            raise self._mixed(f"{column.name!r}: {error}") from error

    def _mixed(self, reason: str) -> InputError:
        first = reason.splitlines()[0]
        return InputError(
            f"{self.path.name}: a column has values of several types, or numbers too large, which parquet cannot "
            f"hold; write .jsonl ({first})"
        )

    def _rewrite(self, schema: Any) -> None:
        import pyarrow.parquet as pq

        self.writer.close()
        narrow = self.path.with_name("narrow-" + self.path.name)
        self.path.rename(narrow)
        self.writer = pq.ParquetWriter(self.path, schema)
        with pq.ParquetFile(narrow) as file:
            for group in range(file.num_row_groups):
                self.writer.write_table(file.read_row_group(group).cast(schema))
        narrow.unlink()

    def close(self) -> None:
        """Finish the file."""
        if self.writer is not None:
            self.writer.close()
