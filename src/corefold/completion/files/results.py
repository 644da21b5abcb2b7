"""Predictions of a fitted estimator for a matrix: all gaps filled, the best of each row, or single entries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from corefold.completion.clipping import clipped
from corefold.completion.estimator import DeepMatrixCompletion
from corefold.completion.files.labelled import LabelledMatrix
from corefold.completion.files.places import Places
from corefold.completion.observed import Observed
from corefold.completion.ranking import BLOCK_ENTRIES, ObservedPlaces, hide_observed, largest, row_steps
from corefold.errors import InputError

COVERAGE = 0.9  # share of single entries that their intervals hold


def row_blocks(
    estimator: DeepMatrixCompletion, entries: int = BLOCK_ENTRIES
) -> Iterator[tuple[slice, Float[np.ndarray, "rows width"]]]:
    """The rows of the fitted matrix, predicted, some at a time: about so many entries."""
    model = estimator.model_
    for rows in row_steps(len(model.factors.u), len(model.factors.v), entries):
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
    parts: list[tuple[np.ndarray, ...]] = []
    places = ObservedPlaces.of(matrix.observed)
    for rows, predicted in row_blocks(estimator):
        hide_observed(predicted, places, np.arange(rows.start, rows.stop))
        best = largest(predicted, top)
        value = np.take_along_axis(predicted, best, 1)
        row, place = np.nonzero(value > -np.inf)
        parts.append((rows.start + row, best[row, place], value[row, place], place + 1))
    row, column, value, rank = (np.concatenate(each) for each in zip(*parts, strict=True))
    cells = (matrix.rows.take(row), matrix.columns.take(column), value)
    return pd.DataFrame({**dict(zip(matrix.names, cells, strict=True)), "rank": rank})


def single_entries(
    estimator: DeepMatrixCompletion, matrix: LabelledMatrix, places: Places
) -> tuple[pd.DataFrame, str | None]:
    """Predictions of single entries with the ends of their intervals, and the reason if there are no intervals.

    Entries with a label that the matrix does not have get means of the observed entries, and intervals as wide as
    those miss others.

    Args:
        estimator: fitted to the matrix.
        matrix: the matrix.
        places: of the entries.

    Raises:
        InputError: a column of the matrix is called "lower" or "upper".
    """
    _check_names(matrix, "lower", "upper")
    rows, columns = (torch.from_numpy(part) for part in (places.rows, places.columns))
    known, predicted = ~places.cold, estimator.means_.entries(rows, columns)
    predicted[known] = torch.from_numpy(estimator.entries(rows[known].numpy(), columns[known].numpy())).to(
        predicted
    )
    try:
        (lower, upper), reason = estimator.ends_around(predicted, rows, columns, COVERAGE), None
    except ValueError as error:
        lower, upper, reason = np.nan, np.nan, str(error)
    value = predicted.cpu().numpy()
    return places.labels.assign(**{matrix.names[2]: value, "lower": lower, "upper": upper}), reason


def _check_names(matrix: LabelledMatrix, *reserved: str) -> None:
    for name in reserved:
        if name in matrix.names:
            raise InputError(f"{matrix.source}: the result has a column {name!r} of its own; rename yours")
