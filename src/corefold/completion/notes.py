"""Warnings as notes that a program shows in its own way."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from corefold.completion.observed import Observed
from corefold.completion.suspicion import suspects

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


def behind_note(error: float, observed: Observed) -> str | None:
    """A note if a fit's error at the entries that it held out is behind that of column means.

    Args:
        error: root mean square error at the entries held out; NaN without any.
        observed: the entries of the fit.
    """
    means = column_mean_error(observed)
    if not error > MAX_ERROR_RATIO * means:
        return None
    return (
        f"at the entries that the fit held out, the root mean square error is {error:.4g}, and that of column means "
        f"about {means:.4g}: no matrix of low rank fits these columns as they stand; --holdout 0.1 measures it"
    )


def column_mean_error(observed: Observed) -> float:
    """Root mean square error at each entry of the mean of its column's other entries, or of all where it has none."""
    columns, values = observed.columns.cpu().numpy(), observed.values.cpu().double().numpy()
    counts = np.bincount(columns, minlength=observed.shape[1])
    sums = np.bincount(columns, values, minlength=observed.shape[1])
    others = counts[columns] - 1
    means = np.where(others > 0, (sums[columns] - values) / np.maximum(others, 1), values.mean())
    return float(np.sqrt(np.square(values - means).mean()))
