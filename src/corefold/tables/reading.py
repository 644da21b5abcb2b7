"""Tables from csv, tsv, jsonl and parquet files, and from data sets of the Hugging Face hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from corefold.errors import InputError


def _read_delimited(path: Path, separator: str) -> pd.DataFrame:
    # Only an empty cell is missing: "None", "NA" and "null" are words, and may be classes.
    # Without index_col=False a row with a comma too many would shift all columns by one.
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, sep=separator, keep_default_na=False, na_values=[""], index_col=False)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": lambda path: _read_delimited(path, ","),
    ".tsv": lambda path: _read_delimited(path, "\t"),
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".parquet": pd.read_parquet,
}


def read_table(source: str) -> pd.DataFrame:
    """The rows of a csv, tsv, jsonl or parquet file, or of a hub data set `NAME[:CONFIG]:SPLIT`.

    Raises:
        InputError: not found, not readable or empty.
    """
    path = Path(source)
    is_file = path.suffix.lower() in READERS or path.exists()
    table = _read_file(path, source) if is_file else _read_hub(source)
    if table.empty:
        raise InputError(f"{source} has no rows")
    return table


def _read_file(path: Path, source: str) -> pd.DataFrame:
    if not path.exists():
        raise InputError(f"{source}: no such file")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{source}: expected one of {', '.join(READERS)}")
    try:
        return reader(path)
    except (pd.errors.EmptyDataError, StopIteration) as error:
        raise InputError(f"{source} is empty; expected a header and rows") from error
    except pd.errors.ParserWarning as error:
        raise InputError(
            f"{source}: a row has more cells than the header; quote texts that hold commas"
        ) from error
    except (ValueError, OSError) as error:  # pandas and pyarrow raise subclasses of these
        raise InputError(f"{source} cannot be read: {str(error).splitlines()[0]}") from error


def _read_hub(source: str) -> pd.DataFrame:
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
    table = rows.to_pandas()
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{source} is too large to read at once")
    return table
