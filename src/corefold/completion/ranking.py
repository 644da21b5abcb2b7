"""The best entries of rows: predictions in order, without those that are observed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from corefold.completion.blend import Blend
from corefold.completion.clipping import Bounds, clipped
from corefold.completion.cold import ObservedMeans
from corefold.completion.observed import Observed

BLOCK_ENTRIES = 2**22  # predicted at a time


@dataclass(frozen=True)
class ObservedPlaces:
    """Where the entries of a matrix are observed, row by row as in `Observed`.

    Attributes:
        starts: where each row starts in `columns`, and the end.
        columns: the column of each entry.
        constant: the value that all entries have, NaN where they differ.
    """

    starts: Int[np.ndarray, " row_ends"]
    columns: Int[np.ndarray, " entries"]
    constant: float = math.nan

    @classmethod
    def of(cls, observed: Observed) -> ObservedPlaces:
        """The places of these entries."""
        values = observed.values
        alike = len(values) > 1 and bool((values == values[0]).all())
        constant = float(values[0]) if alike else math.nan
        return cls(observed.starts.cpu().numpy(), observed.columns.cpu().numpy(), constant)


def row_steps(height: int, width: int, entries: int = BLOCK_ENTRIES) -> Iterator[slice]:
    """Runs of rows with about so many entries."""
    step = max(1, entries // width)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def hide_observed(
    predicted: Float[np.ndarray, "rows width"], observed: ObservedPlaces, rows: Int[np.ndarray, " rows"]
) -> None:
    """Put the predictions of observed entries of these rows, each 0 or more, behind all others."""
    starts, columns = observed.starts, observed.columns
    begins, counts = starts[rows], starts[rows + 1] - starts[rows]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    places = columns[np.repeat(begins, counts) + within]
    predicted[np.repeat(np.arange(len(rows)), counts), places] = -np.inf


def largest(values: Float[np.ndarray, "rows width"], count: int) -> Int[np.ndarray, "rows count"]:
    """The places of the largest values of each row, largest first; of equal ones the first."""
    if count < values.shape[1]:
        best = np.sort(np.argpartition(values, -count, 1)[:, -count:], 1)
    else:
        best = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    order = np.argsort(-np.take_along_axis(values, best, 1), 1, kind="stable")
    return np.take_along_axis(best, order, 1)


def recommended(
    model: Blend,
    means: ObservedMeans,
    bounds: Bounds | None,
    rows: Int[np.ndarray, " rows"],
    n: int,
    observed: ObservedPlaces | None,
) -> tuple[Int[np.ndarray, "rows n"], Float[np.ndarray, "rows n"]]:
    """The columns with the highest predictions in each row, best first, and these.

    Args:
        model: the fitted matrix.
        means: predict the rows that the fit does not have.
        bounds: of the predictions.
        rows: places of rows, -1 for one that the fit does not have.
        n: columns of a row; -1 and NaN fill up a row that has fewer.
        observed: entries to leave out; None leaves out none.
    """
    width = len(model.factors.v)
    count = min(n, width)
    columns, values = np.full((len(rows), n), -1, np.int64), np.full((len(rows), n), np.nan)
    known = rows >= 0
    for part in row_steps(len(rows), width):
        here, is_known = rows[part], known[part]
        predicted = np.empty((len(here), width))
        predicted[~is_known] = means.column.cpu().numpy()
        places = torch.from_numpy(here[is_known]).to(model.factors.s.device)
        predicted[is_known] = clipped(model.predicted(places).dense(), bounds).cpu().numpy()
        if observed is not None:
            shown = predicted[is_known]
            hide_observed(shown, observed, here[is_known])
            predicted[is_known] = shown
        best = largest(predicted, count)
        value = np.take_along_axis(predicted, best, 1)
        left_out = np.isneginf(value)
        columns[part, :count] = np.where(left_out, -1, best)
        values[part, :count] = np.where(left_out, np.nan, value)
    return columns, values
