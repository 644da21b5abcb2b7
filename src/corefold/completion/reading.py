"""The estimator's input, read and checked at its door: observed entries, and the places of entries to predict."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
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
from corefold.completion.inputs import matrix_input
from corefold.completion.labelled_input import FittedLabels, Labels, labelled_entries
from corefold.completion.labels import cells_of
from corefold.completion.memory import require_memory
from corefold.completion.observed import Observed
from corefold.completion.side_information import SideInformation, SideTables, labels_of
from corefold.completion.suspicion import suspects

IMPLICIT = (
    "if they say which entries were chosen (implicit feedback), there is no telling good from bad: also give entries "
    "that were not chosen, as 0, or use ratings or counts as values"
)
MAX_BYTES_AN_ENTRY = 40  # while observed entries are put in order


def partition_of(observed: Observed, shared: bool) -> RowPartition:
    """The rows of this process among those of all."""
    return DistributedRows(observed.shape[0], observed.values.device) if shared else RowPartition()


@dataclass(frozen=True)
class FirstInput:
    """What the first fit reads.

    Attributes:
        observed: the entries.
        partition: the rows of this process among those of all.
        labels: the labels of its rows and columns.
        side: features of rows and columns.
    """

    observed: Observed
    partition: RowPartition
    labels: FittedLabels
    side: SideInformation


def read_first(
    estimator: Any,
    X: Any,
    mask: Any,
    shape: tuple[int, int] | None,
    columns: Sequence[Any] | None,
    duplicates: str,
    side: SideTables,
) -> FirstInput:
    """The entries to fit to, and the rows of this process; an error in one process is raised in all.

    The estimator, a `DeepMatrixCompletion`, gets its `n_features_in_` and `feature_names_in_`. Rows and columns of
    which there are features but no entry are part of the matrix.

    Raises:
        ValueError: as in `read`; or processes whose columns or dtypes differ.
    """
    shared = estimator.distributed
    with errors_in_every_process(shared):
        if shared and side:
            raise ValueError(
                "features of rows and columns need all rows in one process, not distributed=True"
            )
        labelled = labelled_entries(X, columns)
        labels_of_sides = labels_of(X)
        if labelled is not None:
            if shared or shape is not None:
                given = "distributed=True" if shared else "shape"
                raise ValueError(f"{given} takes rows and columns by place, as integers from 0; X has labels")
            labelled = side.extended(labelled)
            labels_of_sides = labelled.row_labels, labelled.column_labels
            X, shape = labelled.triples(), side.shape(labelled.shape(), labels_of_sides)
        own_shape = triples(X, shape).shape if is_triples(X) else None
        if own_shape is not None and shape is None and side:
            shape = side.shape(own_shape)
    if shared and own_shape is not None and shape is None:
        shape = (own_shape[0], max(each[1] for each in gather_objects(own_shape, shared) if each is not None))
    with errors_in_every_process(shared):
        if is_triples(X):
            X = triples(X, shape)
        elif shape is not None:
            raise ValueError("shape goes with triples (rows, columns, values); X has its own")
        observed = _validated(estimator, X, mask, reset=True, duplicates=duplicates)
        if sp.issparse(X):
            _warn_of_equal_values(observed.values.cpu().numpy())
        if not isinstance(X, Observed):
            _warn_of_suspects(observed)
    kinds = gather_objects((observed.shape[1], str(observed.values.dtype)), shared)
    if len(set(kinds)) > 1:
        raise ValueError(f"the processes must have columns and dtypes alike; got {kinds}")
    partition = partition_of(observed, shared)
    sides = (None, None) if labelled is None else (labelled.row_labels, labelled.column_labels)
    labels = FittedLabels(*sides, None if columns is None else tuple(columns))
    encoded = side.encoded(observed, labels_of_sides, labels, numbered=own_shape is not None)
    return FirstInput(observed, partition, labels, encoded)


def _warn_of_equal_values(values: np.ndarray) -> None:
    if len(values) > 1 and (values == values[0]).all():
        warnings.warn(f"all {len(values)} values are {values[0]:g}; {IMPLICIT}", stacklevel=5)


def _warn_of_suspects(observed: Observed) -> None:
    """Warn of a value that may stand for a gap."""
    found = suspects(observed)
    if found:
        each = found[0]
        where = "" if each.column is None else f" of column {each.column}"
        warnings.warn(
            f"{each.count} entries{where} are {each.value:g}, far from the next value, {each.nearest:g}; if that "
            "marks a gap, pass NaN there",
            stacklevel=5,
        )


def read(estimator: Any, X: Any, mask: Any) -> Observed:
    """The observed entries of rows that have a fitted estimator's columns.

    Raises:
        ValueError: other columns, an infinity, or a mask that has another shape or shows a NaN.
        MemoryError: the entries would take more memory than is free.
    """
    return read_labelled(estimator, X, mask)[0]


def read_labelled(estimator: Any, X: Any, mask: Any) -> tuple[Observed, Labels | None]:
    """The same, and the labels of the rows if they have some.

    Raises:
        ValueError: as in `read`, or a column label that the fit did not have.
        MemoryError: the entries would take more memory than is free.
    """
    fitted = estimator.labels_
    columns = fitted.entry_columns
    if columns is not None and not all(name in getattr(X, "columns", ()) for name in columns):
        columns = None
    labelled = labelled_entries(X, columns, fitted.columns)
    row_labels = None
    if labelled is not None:
        if fitted.columns is None and labelled.column_labels is not None:
            raise ValueError("X has labels of columns; the fit had their places, integers from 0")
        X, row_labels = labelled.triples(), labelled.row_labels
    if is_triples(X):
        rows = np.asarray(X[0])
        X = triples(X, (int(rows.max()) + 1 if len(rows) else 0, estimator.n_features_in_))
    return _validated(estimator, X, mask, reset=False), row_labels


def _validated(estimator: Any, X: Any, mask: Any, reset: bool, duplicates: str = "mean") -> Observed:
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
    X, mask = matrix_input(X, mask)
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
    return observed_entries(X, mask, duplicates).to(estimator.device)


def places(
    rows: Any, columns: Any, factors: LowRank, labels: FittedLabels
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Rows and columns of single entries of a matrix, as tensors on its device; -1 for a label that it does not have.

    Raises:
        ValueError: indices out of range, or not as many of both.
    """
    row = index("rows", rows, len(factors.u), labels.rows)
    column = index("columns", columns, len(factors.v), labels.columns)
    if len(row) != len(column):
        raise ValueError(f"entries takes as many rows as columns; got {len(row)} and {len(column)}")
    return row.to(factors.s.device), column.to(factors.s.device)


def index(name: str, indices: Any, size: int, labels: Labels | None) -> Tensor:
    """The places that integers from 0 are or that labels name, -1 for a label that is not known.

    Raises:
        ValueError: integers out of range, or labels where the fit had none.
    """
    if labels is not None:
        one = isinstance(indices, str) or np.ndim(indices) == 0
        return torch.from_numpy(labels.lookup.places([indices] if one else cells_of(indices)))
    index = np.atleast_1d(np.asarray(indices))
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers in one dimension; got {index.dtype}, {index.ndim}-d")
    if len(index) and not 0 <= index.min() <= index.max() < size:
        raise ValueError(f"{name} must lie between 0 and {size - 1}; got {index.min()} to {index.max()}")
    return torch.from_numpy(index.astype(np.int64))
