"""Warnings as notes that a program shows in its own way."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float

from corefold.completion.calibration import Calibration
from corefold.completion.distributed import RowPartition
from corefold.completion.observed import Observed
from corefold.completion.suspicion import suspects
from corefold.completion.units import ColumnSpread

MAX_ERROR_RATIO = 1.02  # that a few held-out entries may show by chance


@contextmanager
def warnings_as_notes() -> Iterator[list[str]]:
    """A list that holds the warnings of the block, each once, when the block ends."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield notes
    notes.extend(dict.fromkeys(str(warning.message) for warning in caught))


def suspicion_notes(observed: Observed, columns: Any) -> list[str]:
    """A note for a value that may mark gaps, among all entries or in a column.

    Args:
        observed: the entries.
        columns: the names of the columns, by their places.
    """
    found = suspects(observed)
    if not found:
        return []
    first = found[0]
    where = "entries" if first.column is None else f"entries of column {str(columns[first.column])!r}"
    others = f" (as in {len(found) - 1} other columns)" if len(found) > 1 else ""
    return [
        f"{first.count:,} {where} are {first.value:g}{others}, far from the next value, {first.nearest:g}; if that "
        f"marks a gap, add --missing {first.value:g}"
    ]


def units_note(spread: ColumnSpread) -> str | None:
    """A note if columns are taken to have several units."""
    if spread.absolute("auto"):
        return None
    return (
        "columns differ so much in size or spread that errors are compared over each column's standard deviation; "
        "--error absolute compares them as they are"
    )


def behind_note(calibration: Calibration, observed: Observed, error: str) -> str | None:
    """A note if a fit's error at the entries that it held out is behind that of column means.

    Args:
        calibration: the errors at the entries held out.
        observed: the entries of the fit.
        error: the estimator's setting.
    """
    spread = ColumnSpread.of(observed, RowPartition())
    unit = np.ones(observed.shape[1]) if spread.absolute(error) else spread.deviation.numpy()
    means = column_mean_error(observed, unit)
    errors = calibration.errors.numpy() / unit[calibration.columns.numpy()]
    ours = float(np.sqrt(np.square(errors).mean())) if len(errors) else np.nan
    if not ours > MAX_ERROR_RATIO * means:
        return None
    return (
        f"at the entries that the fit held out, the root mean square error is {ours:.4g}, that of column means "
        f"about {means:.4g}, and nothing else that was tried is better; --holdout 0.1 measures it"
    )


def column_mean_error(observed: Observed, unit: Float[np.ndarray, " width"]) -> float:
    """Root mean square error, over each column's unit, of the mean of a column's other entries, or of all entries."""
    columns, values = observed.columns.cpu().numpy(), observed.values.cpu().double().numpy()
    counts = np.bincount(columns, minlength=observed.shape[1])
    sums = np.bincount(columns, values, minlength=observed.shape[1])
    others = counts[columns] - 1
    means = np.where(others > 0, (sums[columns] - values) / np.maximum(others, 1), values.mean())
    return float(np.sqrt(np.square((values - means) / unit[columns]).mean()))
