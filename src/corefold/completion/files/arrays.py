"""Matrices in npz files: arrays of numpy, or a sparse matrix of SciPy."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from corefold.completion.files.labelled import LabelledMatrix, checked_entries
from corefold.errors import InputError, reason
from corefold.tables.atomic import atomic_write

ROW_LABELS, COLUMN_LABELS = "row_labels", "column_labels"  # arrays beside the matrix
TRIPLES = ("rows", "columns", "values")


def read_arrays(path: Path, gap_numbers: Sequence[float] = (), duplicates: str = "mean") -> LabelledMatrix:
    """The matrix of an npz file.

    Args:
        path: the file.
        gap_numbers: values that stand for a gap.
        duplicates: which value counts where an entry occurs more than once.

    Raises:
        InputError: not readable, no matrix in it, values that are no numbers, or too few or too many labels.
    """
    source = str(path)
    arrays, sparse = _load(path)
    shape = None
    if sparse is not None:
        X, values = sparse, sparse.data
    elif {*TRIPLES} <= {*arrays}:
        X = tuple(arrays[name] for name in TRIPLES)
        values, shape = X[2], _shape(arrays, source)
    else:
        X = values = _only_matrix(arrays, source)
    if values.dtype.kind not in "biuf":
        raise InputError(f"{source}: values must be numbers; got dtype {values.dtype}")
    if len(gap_numbers):
        X = _with_gaps(X, gap_numbers)
    observed = checked_entries(X, source, shape, duplicates)
    rows, columns = (
        _labels(arrays, name, size, source)
        for name, size in zip((ROW_LABELS, COLUMN_LABELS), observed.shape, strict=True)
    )
    return LabelledMatrix(source, observed, rows, columns, labelled=ROW_LABELS in arrays)


def _with_gaps(X: Any, gap_numbers: Sequence[float]) -> Any:
    """The matrix with NaN in the place of these values."""
    if isinstance(X, tuple):
        rows, columns, values = X
        if values.shape != rows.shape:  # a fault to be named later
            return X
        return rows, columns, np.where(np.isin(values, gap_numbers), np.nan, values)
    if sp.issparse(X):
        X = sp.coo_array(X).astype(np.float64)
        X.data[np.isin(X.data, gap_numbers)] = np.nan
        return X
    return np.where(np.isin(X, gap_numbers), np.nan, X)


def _load(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays, and the sparse matrix if that is what they make up."""
    if not zipfile.is_zipfile(path):  # numpy's own message would speak of pickles
        raise InputError(f"{path} cannot be read: it is no npz file")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
            return arrays, sp.load_npz(path) if "format" in arrays else None
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from error


def _shape(arrays: dict[str, np.ndarray], source: str) -> tuple[int, int] | None:
    if "shape" not in arrays:
        return None
    if arrays["shape"].shape != (2,):
        raise InputError(
            f"{source}: shape must be two numbers; got an array of shape {arrays['shape'].shape}"
        )
    height, width = arrays["shape"]
    return int(height), int(width)


def _only_matrix(arrays: dict[str, np.ndarray], source: str) -> np.ndarray:
    matrices = [array for array in arrays.values() if array.ndim == 2]
    if len(matrices) != 1:
        raise InputError(
            f"{source} holds the arrays {', '.join(arrays) or 'none'}; expected a SciPy sparse matrix, arrays "
            f"{', '.join(TRIPLES[:2])} and {TRIPLES[2]}, or one array of two dimensions"
        )
    return matrices[0]


def _labels(arrays: dict[str, np.ndarray], name: str, size: int, source: str) -> pd.Index:
    if name not in arrays:
        return pd.RangeIndex(size)
    if arrays[name].shape != (size,):
        raise InputError(f"{source}: {name} must have the shape ({size},); got {arrays[name].shape}")
    return pd.Index(arrays[name])


def label_array(labels: pd.Index) -> np.ndarray:
    """Labels, or a column's cells, as an array that numpy reads back without pickle."""
    array = labels.to_numpy()
    return array if array.dtype.kind in "biuf" else array.astype(str)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an npz file."""
    with atomic_write(path) as new, new.open("wb") as file:  # given a name, numpy would add an ending to .NPZ
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
