"""What users pass for a matrix, in the forms that the estimator reads; what looks like another thing is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from corefold.completion.entries import is_triples

HOW_TO_PASS_TRIPLES = (
    "pass entries as a tuple (rows, columns, values), or a frame with columns=(ROW, COLUMN, VALUE), its names"
)
NAMES_OF_ENTRIES = re.compile(
    r"(?i)(users?|customers?|items?|movies?|films?|books?|products?|songs?|articles?|ratings?|rows?|cols?|columns?|"
    r"values?|stars|scores?|.*[_\-. ]?id)"
)
MIN_ROWS = 8  # of a long frame: with fewer, numbers that repeat say nothing
MIN_DISTINCT_SHARE = 0.99  # of pairs of row and column in a long frame


def matrix_input(X: Any, mask: Any) -> tuple[Any, Any]:
    """A matrix and its mask as arrays that lose nothing: masked arrays, and frames of sparse columns.

    Raises:
        ValueError: entries in another form than a matrix, or a mask that does not belong to X.
    """
    refuse_entries(X)
    if isinstance(X, np.ma.MaskedArray):
        if mask is not None:
            raise ValueError(
                "X is a masked array, whose own mask says what is missing; give no mask beside it"
            )
        kept = X.dtype if X.dtype.kind == "f" else np.float64
        return np.ma.filled(X.astype(kept), np.nan), None
    of_frames = hasattr(X, "columns") and hasattr(mask, "columns")
    if of_frames and (list(X.columns) != list(mask.columns) or list(X.index) != list(mask.index)):
        raise ValueError("mask must have the rows and columns of X, by name and in the same order")
    return _sparse_columns(X), mask


def _sparse_columns(X: Any) -> Any:
    """A frame of pandas' sparse columns as a SciPy matrix where gaps are what is not stored; else X itself."""
    kinds = list(getattr(X, "dtypes", [])) if hasattr(X, "columns") else []
    fills = [getattr(kind, "fill_value", None) for kind in kinds]
    if not kinds or any(fill is None for fill in fills):
        return X
    gaps = [isinstance(fill, float) and np.isnan(fill) for fill in fills]
    if not any(gaps):
        warnings.warn(
            "X has sparse columns that do not store their zeros, so zeros count as missing; "
            "X.sparse.to_dense() observes them",
            stacklevel=4,
        )
        return X
    if not all(gaps):
        raise ValueError(
            "X has sparse columns of several fill values; give all of them SparseDtype(float, nan)"
        )
    columns = [X.iloc[:, place].array for place in range(X.shape[1])]
    rows = [column.sp_index.to_int_index().indices for column in columns]
    values = np.concatenate([column.sp_values for column in columns]) if columns else np.zeros(0)
    places = np.repeat(np.arange(len(columns)), [len(each) for each in rows])
    return sp.coo_array((values.astype(np.float64), (np.concatenate(rows), places)), shape=X.shape)


def refuse_entries(X: Any) -> None:
    """Refuse single entries that are passed as if they were the rows or the columns of a matrix.

    Raises:
        ValueError: with the form to use.
    """
    if isinstance(X, tuple) and not is_triples(X) and all(np.ndim(part) == 1 for part in X):
        raise ValueError(f"got a tuple of {len(X)}; {HOW_TO_PASS_TRIPLES}")
    if isinstance(X, list) and len(X) == 3 and _is_list_of_triples(X):
        raise ValueError(f"a list of three is a matrix of three rows; {HOW_TO_PASS_TRIPLES}")
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        _refuse_long_frame(X)
    elif isinstance(X, list) and X and all(isinstance(each, tuple) and len(each) == 3 for each in X):
        text = any(_has_text(each[:2]) for each in X)
        if text or looks_long(*list(zip(*X, strict=True))[:2]):
            raise ValueError(f"a list of tuples is a matrix with three columns; {HOW_TO_PASS_TRIPLES}")


def _is_list_of_triples(X: list[Any]) -> bool:
    if any(np.ndim(part) != 1 for part in X) or len({len(part) for part in X}) > 1 or len(X[0]) < 2:
        return False
    if any(np.asarray(part).dtype.kind in "UO" and _has_text(part) for part in X[:2]):
        return True
    kinds = [np.asarray(part).dtype.kind for part in X[:2]]
    whole = all(kind in "iu" for kind in kinds)
    return whole and (not all(isinstance(part, list) for part in X) or looks_long(*X[:2]))


def _has_text(part: Any) -> bool:
    return any(isinstance(cell, str) for cell in part)


def _refuse_long_frame(X: Any) -> None:
    names = [str(name) for name in X.columns]
    if not 3 <= len(names) <= 4:
        return
    first, second = X.iloc[:, 0], X.iloc[:, 1]
    long, text = looks_long(first, second), any(_has_text(column) for column in (first, second))
    if text or (long and named_as_entries(names)):
        raise ValueError(
            f"X has the columns {', '.join(names)} and looks like an entry a row, not like a matrix; pass "
            f"columns={tuple(names[:3])}, or X.to_numpy() if it is a matrix"
        )
    if long:
        warnings.warn(
            f"X has {len(names)} columns, and the first two never repeat a pair: if each row is one entry, pass "
            f"columns={tuple(names[:3])}",
            stacklevel=5,
        )


def named_as_entries(names: Sequence[str]) -> bool:
    """Whether two of the first three columns have names as those of rows, columns and values of entries."""
    return sum(NAMES_OF_ENTRIES.fullmatch(name) is not None for name in names[:3]) >= 2


def looks_long(rows: Any, columns: Any) -> bool:
    """Whether whole numbers repeat in each of two columns and never as a pair, as places of entries do."""
    rows, columns = np.asarray(rows), np.asarray(columns)
    if len(rows) < MIN_ROWS or not all(
        part.dtype.kind in "iu" and part.min() >= 0 for part in (rows, columns)
    ):
        return False
    pairs = len(np.unique(np.stack([rows, columns]), axis=1).T)
    repeated = all(len(np.unique(part)) < len(part) for part in (rows, columns))
    return repeated and pairs >= MIN_DISTINCT_SHARE * len(rows)
