"""Observed entries of arrays with NaN or a mask, of sparse matrices and of triples."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
import torch

from corefold.completion.observed import Observed

Duplicates = Literal["mean", "last", "first", "error"]
DUPLICATES = get_args(Duplicates)


def triples(X: Any, shape: tuple[int, int] | None = None) -> sp.coo_array:
    """`(rows, columns, values)` as a sparse matrix, whose stored entries are the observed ones.

    Raises:
        ValueError: unequal lengths, or indices that are negative or beyond `shape`.
        TypeError: indices that are not integers, or values that are not numbers.
    """
    rows, columns, values = _unmasked(X)
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
                f"the {name} of triples must be integers from 0, or labels of text; got dtype {part.dtype} "
                "(pandas.factorize turns other labels into such integers)"
            )
    if shape is None:
        shape = _size(rows), _size(columns)
    for name, part, size in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
        if len(part) and not 0 <= part.min() <= part.max() < size:
            raise ValueError(
                f"the {name} of triples must lie between 0 and {size - 1} for shape {shape}; "
                f"got {part.min()} to {part.max()}"
            )
    rows, columns = (part.astype(np.int64) if part.dtype.kind == "u" else part for part in (rows, columns))
    return sp.coo_array((values, (rows, columns)), shape=shape)


def _unmasked(X: Any) -> list[np.ndarray]:
    """The three arrays, without the entries that one of them masks."""
    hidden = [np.ma.getmaskarray(part) for part in X if isinstance(part, np.ma.MaskedArray)]
    parts = [np.asarray(part) for part in X]
    if not hidden or len({len(part) for part in parts}) > 1:
        return parts
    shown = ~np.any(hidden, axis=0)
    return [part[shown] for part in parts]


def _size(indices: np.ndarray) -> int:
    return int(indices.max()) + 1 if len(indices) else 0


def is_triples(X: Any) -> bool:
    """Whether these are three arrays, not the rows of a matrix."""
    return isinstance(X, tuple) and len(X) == 3 and all(np.ndim(part) == 1 for part in X)


def observed_entries(X: Any, mask: Any = None, duplicates: str = "mean") -> Observed:
    """The observed entries of a checked numpy array or sparse matrix.

    In an array these are the entries that are not NaN, or where `mask` is true; in a sparse matrix the stored ones,
    among them explicit zeros. An entry that is stored more than once counts once: with the mean of its values, with the
    last or the first of them, or as an error.

    Raises:
        ValueError: an infinity, a mask that has another shape or shows a NaN, or an entry that is stored twice where
            that is an error.
    """
    if duplicates not in DUPLICATES:
        raise ValueError(f"duplicates must be one of {', '.join(DUPLICATES)}; got {duplicates!r}")
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
    rows, columns, values = (_tensor(part) for part in (rows, columns, values))
    return once(Observed.of(rows, columns, values, X.shape), duplicates)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """The same numbers as a tensor, in the same memory where that may be written to, as PyTorch expects."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _observed_places(X: np.ndarray, mask: Any) -> np.ndarray:
    is_number = ~np.isnan(X)
    if mask is None:
        return is_number
    mask = truths(mask)
    if mask.shape != X.shape:
        raise ValueError(f"mask must have the shape of X, {X.shape}; got {mask.shape}")
    if (mask & ~is_number).any():
        raise ValueError("mask shows entries of X that are NaN")
    return mask


def truths(mask: Any) -> np.ndarray:
    """A mask as an array of truth values.

    Raises:
        ValueError: cells that are neither true nor false, nor 1 nor 0. Python would take NaN, -1 and "False" for true.
    """
    if isinstance(mask, np.ma.MaskedArray):
        raise ValueError(
            "mask is a masked array; give plain truth values, true where an entry of X is observed"
        )
    mask = mask.toarray() if sp.issparse(mask) else np.asarray(mask)
    if mask.dtype == bool:
        return mask
    if mask.dtype.kind in "iuf":
        known = (mask == 0) | (mask == 1)
    else:
        known = np.array([isinstance(cell, bool | np.bool_) for cell in mask.ravel()], bool).reshape(
            mask.shape
        )
    if not known.all():
        raise ValueError(
            "mask must hold truth values, or 1 and 0, true where an entry of X is observed; "
            f"got {mask[~known].ravel()[0]!r}"
        )
    return mask.astype(bool)


def _stored(X: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X = X.tocoo(copy=False)
    rows, columns, values = *X.coords, X.data
    is_number = ~np.isnan(values)
    if is_number.all():
        return rows, columns, values
    return rows[is_number], columns[is_number], values[is_number]


def once(observed: Observed, duplicates: str = "mean") -> Observed:
    """Every place once; the entries of a place stand in the order in which they came."""
    again = torch.zeros(len(observed), dtype=torch.bool)  # whether an entry has the place of the one before
    again[1:] = observed.columns[1:] == observed.columns[:-1]
    again[observed.starts[:-1][observed.starts.diff() > 0]] = False
    if not again.any():
        return observed
    count = int(again.sum())
    if duplicates == "error":
        entry = int(again.nonzero()[0])
        row = int(torch.searchsorted(observed.starts, entry, right=True)) - 1
        raise ValueError(
            f"{count} entries are given more than once, the first in row {row} and column "
            f"{int(observed.columns[entry])}, counted from 0; choose which counts: {', '.join(DUPLICATES[:-1])}"
        )
    counted = {"mean": "their mean counts", "last": "the last counts", "first": "the first counts"}[
        duplicates
    ]
    warnings.warn(f"{count} entries are given more than once; {counted}", stacklevel=4)
    first = ~again
    if duplicates == "first":
        values = observed.values[first]
    elif duplicates == "last":
        values = observed.values[torch.cat([first[1:], first.new_ones(1)])]
    else:
        place = first.cumsum(0) - 1
        sums = torch.zeros(int(place[-1]) + 1, dtype=observed.values.dtype)
        values = sums.index_add_(0, place, observed.values) / place.bincount().to(sums)
    return Observed.of(observed.row_of()[first], observed.columns[first], values, observed.shape)
