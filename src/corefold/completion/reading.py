"""The estimator's input, read and checked at its door: observed entries, and the places of entries to predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Int
from sklearn.utils.validation import validate_data
from torch import Tensor

from corefold.completion.distributed import (
    DistributedRows,
    RowPartition,
    errors_in_every_process,
    gather_objects,
)
from corefold.completion.entries import is_triples, observed_entries, triples
from corefold.completion.factors import LowRank
from corefold.completion.memory import require_memory
from corefold.completion.observed import Observed

MAX_BYTES_AN_ENTRY = 40  # while observed entries are put in order


def partition_of(observed: Observed, shared: bool) -> RowPartition:
    """The rows of this process among those of all."""
    return DistributedRows(observed.shape[0], observed.values.device) if shared else RowPartition()


def read_first(
    estimator: Any, X: Any, mask: Any, shape: tuple[int, int] | None
) -> tuple[Observed, RowPartition]:
    """The entries to fit to, and the rows of this process; an error in one process is raised in all.

    The estimator, a `DeepMatrixCompletion`, gets its `n_features_in_` and `feature_names_in_`.

    Raises:
        ValueError: as in `read`; or processes whose columns or dtypes differ.
    """
    shared = estimator.distributed
    with errors_in_every_process(shared):
        own_shape = triples(X, shape).shape if is_triples(X) else None
    if shared and own_shape is not None and shape is None:
        shape = (own_shape[0], max(each[1] for each in gather_objects(own_shape, shared) if each is not None))
    with errors_in_every_process(shared):
        if is_triples(X):
            X = triples(X, shape)
        elif shape is not None:
            raise ValueError("shape goes with triples (rows, columns, values); X has its own")
        observed = _validated(estimator, X, mask, reset=True)
    kinds = gather_objects((observed.shape[1], str(observed.values.dtype)), shared)
    if len(set(kinds)) > 1:
        raise ValueError(f"the processes must have columns and dtypes alike; got {kinds}")
    return observed, partition_of(observed, shared)


def read(estimator: Any, X: Any, mask: Any) -> Observed:
    """The observed entries of rows that have a fitted estimator's columns.

    Raises:
        ValueError: other columns, an infinity, or a mask that has another shape or shows a NaN.
        MemoryError: the entries would take more memory than is free.
    """
    if is_triples(X):
        X = triples(X, (int(np.max(X[0], initial=-1)) + 1, estimator.n_features_in_))
    return _validated(estimator, X, mask, reset=False)


def _validated(estimator: Any, X: Any, mask: Any, reset: bool) -> Observed:
    dtype = estimator.dtype
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f'dtype must be "float32", "float64" or None; got {dtype!r}')
    if isinstance(X, Observed):
        if mask is not None:
            raise ValueError("a mask goes with a dense X; all entries of an Observed are observed")
        validate_data(estimator, X, reset=reset, skip_check_array=True)  # pyright: ignore[reportArgumentType]
        if not X.values.isfinite().all():
            raise ValueError("X contains a NaN or an infinity; an observed entry must be a number")
        observed = X if dtype is None else X.with_values(X.values.to(getattr(torch, dtype)))
        return observed.to(estimator.device)
    X = validate_data(
        estimator,
        X,
        reset=reset,
        accept_sparse="coo",
        dtype=[np.float64, np.float32] if dtype is None else np.dtype(dtype),
        ensure_all_finite=False,
    )
    count = X.nnz if sp.issparse(X) else X.size - int(np.isnan(X).sum())
    needed = count * MAX_BYTES_AN_ENTRY + sum(X.shape) * 16
    what = f"{count} observed entries of a matrix of shape {X.shape}"
    require_memory(what, needed, "give fewer rows at a time")
    return observed_entries(X, mask).to(estimator.device)


def places(rows: Any, columns: Any, factors: LowRank) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Rows and columns of single entries of a matrix, as tensors on its device.

    Raises:
        ValueError: indices out of range, or not as many of both.
    """
    row, column = _index("rows", rows, len(factors.u)), _index("columns", columns, len(factors.v))
    if len(row) != len(column):
        raise ValueError(f"entries takes as many rows as columns; got {len(row)} and {len(column)}")
    return row.to(factors.s.device), column.to(factors.s.device)


def _index(name: str, indices: Any, size: int) -> Tensor:
    index = np.atleast_1d(np.asarray(indices))
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers in one dimension; got {index.dtype}, {index.ndim}-d")
    if len(index) and not 0 <= index.min() <= index.max() < size:
        raise ValueError(f"{name} must lie between 0 and {size - 1}; got {index.min()} to {index.max()}")
    return torch.from_numpy(index.astype(np.int64))
