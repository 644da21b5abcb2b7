"""A matrix of a file, whose rows and columns have labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from corefold.completion.entries import observed_entries, triples
from corefold.completion.observed import Observed
from corefold.completion.reading import IMPLICIT
from corefold.errors import InputError


@dataclass(frozen=True)
class LabelledMatrix:
    """Observed entries, and the names that the user has for their rows and columns.

    Attributes:
        source: the file.
        observed: its entries, each place once.
        rows: a label for each row.
        columns: a label for each column.
        names: names of the row labels, the column labels and the values.
        labelled: whether the row labels came with the data; then they go with the result.
        notes: warnings of the reading.
    """

    source: str
    observed: Observed
    rows: pd.Index
    columns: pd.Index
    names: tuple[str, str, str] = ("row", "col", "value")
    labelled: bool = True
    notes: list[str] = field(default_factory=list)


def checked_entries(
    X: Any, source: str, shape: tuple[int, int] | None = None, duplicates: str = "mean"
) -> Observed:
    """The observed entries of an array, a sparse matrix or `(rows, columns, values)`.

    Args:
        X: the entries.
        source: the file, for messages.
        shape: of the matrix that triples are entries of; by default just large enough.
        duplicates: which value counts where an entry occurs more than once.

    Raises:
        InputError: entries that are no matrix, or of which none is observed.
    """
    try:
        if isinstance(X, tuple):
            X = triples(X, shape)
        observed = observed_entries(X.astype(np.float64), duplicates=duplicates)
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{source}: {error}") from error
    if not len(observed):
        raise InputError(f"{source}: nothing is observed, because every value is missing")
    return observed


def require_different_values(matrix: LabelledMatrix) -> None:
    """Raise InputError where all values are equal: nothing then tells one prediction from another."""
    values = matrix.observed.values
    if len(values) > 1 and bool((values == values[0]).all()):
        raise InputError(f"{matrix.source}: all {len(values):,} values are {float(values[0]):g}; {IMPLICIT}")
