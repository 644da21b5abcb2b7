"""Observed entries of arrays with NaN or a mask, of sparse matrices and of triples."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from corefold.completion.observed import Observed


def triples(X: Any, shape: tuple[int, int] | None = None) -> sp.coo_array:
    """`(rows, columns, values)` as a sparse matrix, whose stored entries are the observed ones.

    Raises:
        ValueError: unequal lengths, or indices that are negative or beyond `shape`.
        TypeError: indices that are not integers, or values that are not numbers.
    """
    rows, columns, values = (np.asarray(part) for part in X)
    if not len(rows) == len(columns) == len(values):
        raise ValueError(
            "triples are (rows, columns, values) of one length; "
            f"got lengths {len(rows)}, {len(columns)} and {len(values)}"
        )
    if values.dtype.kind not in "biuf":
        raise TypeError(f"the values of triples must be numbers; got dtype {values.dtype}")
    for name, part in (("rows", rows), ("columns", columns)):
        if len(part) and part.dtype.kind not in "iu":
            raise TypeError(
                f"the {name} of triples must be integers from 0; got dtype {part.dtype} "
                "(pandas.factorize turns labels into such integers)"
            )
    if shape is None:
        shape = int(rows.max(initial=-1)) + 1, int(columns.max(initial=-1)) + 1
    for name, part, size in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
        if len(part) and not 0 <= part.min() <= part.max() < size:
            raise ValueError(
                f"the {name} of triples must lie between 0 and {size - 1} for shape {shape}; "
                f"got {part.min()} to {part.max()}"
            )
    return sp.coo_array((values, (rows, columns)), shape=shape)


def is_triples(X: Any) -> bool:
    """Whether these are three arrays, not the rows of a matrix."""
    return isinstance(X, tuple) and len(X) == 3 and all(np.ndim(part) == 1 for part in X)


def observed_entries(X: Any, mask: Any = None) -> Observed:
    """The observed entries of a checked numpy array or sparse matrix.

    In an array these are the entries that are not NaN, or where `mask` is true; in a sparse matrix the stored ones,
    among them explicit zeros. An entry that is stored more than once counts once, with the mean of its values.

    Raises:
        ValueError: an infinity, or a mask that has another shape or shows a NaN.
    """
    if sp.issparse(X):
        if mask is not None:
            raise ValueError("a mask goes with a dense X; of a sparse one the stored entries are observed")
        rows, columns, values = _stored(X)
    else:
        is_observed = _observed_places(X, mask)
        rows, columns = is_observed.nonzero()
        values = X[is_observed]
    if not np.isfinite(values).all():
        raise ValueError("X contains an infinity; an entry must be a number, or NaN where it is missing")
    rows, columns, values = (torch.from_numpy(np.ascontiguousarray(part)) for part in (rows, columns, values))
    return _once(Observed.of(rows, columns, values, X.shape))


def _observed_places(X: np.ndarray, mask: Any) -> np.ndarray:
    is_number = ~np.isnan(X)
    if mask is None:
        return is_number
    mask = np.asarray(mask, bool)
    if mask.shape != X.shape:
        raise ValueError(f"mask must have the shape of X, {X.shape}; got {mask.shape}")
    if (mask & ~is_number).any():
        raise ValueError("mask shows entries of X that are NaN")
    return mask


def _stored(X: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X = X.tocoo(copy=False)
    rows, columns, values = *X.coords, X.data
    is_number = ~np.isnan(values)
    if is_number.all():
        return rows, columns, values
    return rows[is_number], columns[is_number], values[is_number]


def _once(observed: Observed) -> Observed:
    """Every place once, with the mean of its values."""
    again = torch.zeros(len(observed), dtype=torch.bool)  # whether an entry has the place of the one before
    again[1:] = observed.columns[1:] == observed.columns[:-1]
    again[observed.starts[:-1][observed.starts.diff() > 0]] = False
    if not again.any():
        return observed
    warnings.warn(f"{int(again.sum())} entries are given more than once; their mean counts", stacklevel=4)
    place = (~again).cumsum(0) - 1
    sums = torch.zeros(int(place[-1]) + 1, dtype=observed.values.dtype).index_add_(0, place, observed.values)
    first = ~again
    means = sums / place.bincount().to(sums)
    return Observed.of(observed.row_of()[first], observed.columns[first], means, observed.shape)
