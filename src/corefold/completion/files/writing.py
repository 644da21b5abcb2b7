"""Results in files: tables as csv or parquet, and arrays as npz, by the ending of the name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from corefold.completion.files.arrays import COLUMN_LABELS, ROW_LABELS, label_array, write_arrays
from corefold.completion.files.labelled import LabelledMatrix
from corefold.completion.files.reading import ARRAYS
from corefold.completion.memory import require_memory
from corefold.errors import InputError
from corefold.tables.writing import write_table


def check_filled_fits(matrix: LabelledMatrix, path: Path, samples: int = 1) -> None:
    """Refuse a filled table, or several, that would not fit in memory, before the fit.

    Raises:
        InputError: with the estimate.
    """
    height, width = matrix.observed.shape
    copies = samples + (path.suffix.lower() == ".parquet")  # pyarrow takes columns of its own
    try:
        tables = "the filled table" if samples == 1 else f"{samples} filled tables"
        what = f"{tables} of {height:,} rows and {width:,} columns"
        require_memory(what, copies * height * width * 8, "ask for --top or --entries instead")
    except MemoryError as error:
        raise InputError(str(error)) from error


def write_filled(filled: Float[np.ndarray, "height width"], matrix: LabelledMatrix, path: Path) -> None:
    """Write the filled table, row labels first, or as arrays `matrix`, `row_labels` and `column_labels`.

    Raises:
        InputError: two columns of one name, which a table cannot hold.
    """
    if path.suffix.lower() == ARRAYS:
        labels = {COLUMN_LABELS: label_array(matrix.columns)}
        if matrix.labelled:
            labels[ROW_LABELS] = label_array(matrix.rows)
        write_arrays(path, {"matrix": filled, **labels})
        return
    columns = [str(label) for label in matrix.columns]
    if len(set(columns)) < len(columns):
        raise InputError(f"{matrix.source}: two columns have the same name, which {path.suffix} cannot hold")
    table = pd.DataFrame(filled, columns=pd.Index(columns), copy=False)
    if matrix.labelled:
        name = matrix.names[0]
        while name in columns:
            name += "_"
        table.insert(0, name, matrix.rows)
    write_table(table, path)


def write_entries(table: pd.DataFrame, path: Path) -> None:
    """Write ranked or single entries, as a table or as an array for each column."""
    if path.suffix.lower() == ARRAYS:
        write_arrays(path, {str(name): label_array(pd.Index(table[name])) for name in table})
    else:
        write_table(table, path)
