"""Tables of Arrow: parquet and feather files and data sets of Hugging Face, with the types that they have there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

UNNAMED_INDEX = (
    "__index_level_"  # pyarrow's name, with a number behind it, for an index of pandas without one
)

INDEX = "index"  # The key of `DataFrame.attrs` under which the names of columns stand that were an index of pandas.


def frame_of(table: pa.Table, first_row: int = 0) -> pd.DataFrame:
    """The columns of a table of Arrow, each with its type; an index of pandas that has a name is a column.

    Args:
        table: the table, or some of its rows.
        first_row: the place of the first of these rows in the whole table.
    """
    table = _plain(table)
    # Types of pandas would turn whole numbers beside a gap into floats, and lists into arrays.
    frame = table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    indices = (table.schema.pandas_metadata or {}).get("index_columns", [])
    return _with_index(frame, indices, first_row)


def _plain(table: pa.Table) -> pa.Table:
    """The table with categories as their values, and types that a library added as those that they are stored in."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(field.type.value_type))
        elif isinstance(field.type, pa.BaseExtensionType):
            table = table.set_column(place, field.name, table.column(place).cast(field.type.storage_type))
    return table


def _with_index(frame: pd.DataFrame, indices: list[Any], first_row: int) -> pd.DataFrame:
    names = []
    for each in indices:
        if isinstance(each, dict):  # An index of consecutive numbers stands in the metadata alone.
            if each["name"] is not None and each["name"] not in frame.columns:
                start = each["start"] + first_row * each["step"]
                numbers = range(start, start + len(frame) * each["step"], each["step"])
                frame = frame.assign(**{each["name"]: list(numbers)})
                names.append(each["name"])
        elif not each.startswith(UNNAMED_INDEX):
            names.append(each)
        elif pd.api.types.is_integer_dtype(frame[each].dtype) or "index" in frame.columns:
            frame = frame.drop(columns=each)  # Numbers without a name are left over from a choice of rows.
        else:
            frame = frame.rename(columns={each: "index"})
            names.append("index")
    frame = frame[[*names, *(name for name in frame.columns if name not in names)]]
    if names:
        frame.attrs[INDEX] = names
    return frame


def parquet_tables(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    """The rows of a parquet file in blocks of at most `rows`; the first comes even where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False) as file:
        done = 0
        for batch in file.iter_batches(batch_size=rows):
            yield frame_of(pa.Table.from_batches([batch], file.schema_arrow), done)
            done += len(batch)
        if not done:
            yield frame_of(file.schema_arrow.empty_table())


def feather_table(path: Path) -> pd.DataFrame:
    """The rows of a feather file."""
    from pyarrow import feather

    return frame_of(feather.read_table(path))


def data_set_table(rows: Dataset) -> pd.DataFrame:
    """The rows of a data set; a number that stands for a class becomes the name of the class."""
    frame = frame_of(rows.with_format("arrow")[:])
    for name, feature in rows.features.items():
        names = getattr(feature, "names", None)
        inner = getattr(
            getattr(feature, "feature", None), "names", None
        )  # a list of classes, as tags of words
        if names is not None:
            frame[name] = pd.Series([_name(names, cell) for cell in frame[name].tolist()], dtype=object)
        elif inner is not None:
            cells = [
                [_name(inner, each) for each in cell] if isinstance(cell, list) else None
                for cell in frame[name].tolist()
            ]
            frame[name] = pd.Series(cells, dtype=object)
    return frame


def _name(names: list[str], number: Any) -> str | None:
    """The class of a number; data sets write -1 where rows have no label."""
    return None if pd.isna(number) or number < 0 else names[number]
