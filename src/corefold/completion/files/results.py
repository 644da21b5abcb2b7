"""Predictions of a fitted estimator for a matrix: all gaps filled, the best of each row, or single entries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from corefold.completion.clipping import clipped
from corefold.completion.estimator import DeepMatrixCompletion
from corefold.completion.files.labelled import LabelledMatrix
from corefold.completion.observed import Observed
from corefold.errors import InputError

BLOCK_ENTRIES = 2**22  # predicted at a time
COVERAGE = 0.9  # share of single entries that their intervals hold


def row_blocks(
    estimator: DeepMatrixCompletion, entries: int = BLOCK_ENTRIES
) -> Iterator[tuple[slice, Float[np.ndarray, "rows width"]]]:
    """The rows of the fitted matrix, predicted, some at a time: about so many entries."""
    model = estimator.model_
    height, step = len(model.factors.u), max(1, entries // len(model.factors.v))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        yield rows, clipped(model.predicted(rows).dense(), estimator.bounds_).cpu().numpy()


def filled_matrix(estimator: DeepMatrixCompletion, observed: Observed) -> Float[np.ndarray, "height width"]:
    """The fitted matrix with the entries in `observed` as they are there."""
    filled = np.empty(observed.shape)
    for rows, predicted in row_blocks(estimator):
        filled[rows] = predicted
    filled[observed.row_of().numpy(), observed.columns.numpy()] = observed.values.numpy()
    return filled


def ranked_entries(estimator: DeepMatrixCompletion, matrix: LabelledMatrix, top: int) -> pd.DataFrame:
    """The highest predictions of each row among the entries that are not observed, best first.

    Raises:
        InputError: a column of the matrix is called "rank".
    """
    _check_names(matrix, "rank")
    starts, columns = matrix.observed.starts.numpy(), matrix.observed.columns.numpy()
    parts: list[tuple[np.ndarray, ...]] = []
    for rows, predicted in row_blocks(estimator):
        counts = np.diff(starts[rows.start : rows.stop + 1])
        known = columns[starts[rows.start] : starts[rows.stop]]
        predicted[np.repeat(np.arange(len(counts)), counts), known] = -np.inf
        best = _largest(predicted, top)
        value = np.take_along_axis(predicted, best, 1)
        row, place = np.nonzero(value > -np.inf)
        parts.append((rows.start + row, best[row, place], value[row, place], place + 1))
    row, column, value, rank = (np.concatenate(each) for each in zip(*parts, strict=True))
    cells = (matrix.rows.take(row), matrix.columns.take(column), value)
    return pd.DataFrame({**dict(zip(matrix.names, cells, strict=True)), "rank": rank})


def _largest(values: Float[np.ndarray, "rows width"], count: int) -> Int[np.ndarray, "rows count"]:
    """The places of the largest values of each row, largest first; of equal ones the first."""
    if count < values.shape[1]:
        best = np.sort(np.argpartition(values, -count, 1)[:, -count:], 1)
    else:
        best = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    order = np.argsort(-np.take_along_axis(values, best, 1), 1, kind="stable")
    return np.take_along_axis(best, order, 1)


def single_entries(
    estimator: DeepMatrixCompletion,
    matrix: LabelledMatrix,
    labels: pd.DataFrame,
    rows: Int[np.ndarray, " n"],
    columns: Int[np.ndarray, " n"],
) -> tuple[pd.DataFrame, str | None]:
    """Predictions of single entries with the ends of their intervals, and the reason if there are no intervals.

    Args:
        estimator: fitted to the matrix.
        matrix: the matrix.
        labels: the row and column labels of the entries.
        rows: their rows.
        columns: their columns.

    Raises:
        InputError: a column of the matrix is called "lower" or "upper".
    """
    _check_names(matrix, "lower", "upper")
    try:
        (lower, upper), reason = estimator.intervals(rows, columns, COVERAGE), None
    except ValueError as error:
        lower, upper, reason = np.nan, np.nan, str(error)
    value = estimator.entries(rows, columns)
    return labels.assign(**{matrix.names[2]: value, "lower": lower, "upper": upper}), reason


def _check_names(matrix: LabelledMatrix, *reserved: str) -> None:
    for name in reserved:
        if name in matrix.names:
            raise InputError(f"{matrix.source}: the result has a column {name!r} of its own; rename yours")
