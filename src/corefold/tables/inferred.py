"""Tables for matrices, where a cell that looks like a number is one: labels of rows keep their order as numbers."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

from corefold.errors import InputError


def read_inferred_table(path: Path) -> pd.DataFrame:
    """The rows of a csv or parquet file with the types that pandas finds for whole columns.

    Raises:
        InputError: not readable or empty.
    """
    try:
        table = pd.read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except (pd.errors.EmptyDataError, StopIteration) as error:
        raise InputError(f"{path} is empty; expected a header and rows") from error
    except pd.errors.ParserWarning as error:
        raise InputError(
            f"{path}: a row has more cells than the header; quote texts that hold commas"
        ) from error
    except (ValueError, OSError) as error:  # pandas and pyarrow raise subclasses of these
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if table.empty:
        raise InputError(f"{path} has no rows")
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    # Without index_col=False a row with a comma too many would shift all columns by one.
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, keep_default_na=False, na_values=[""], index_col=False)
