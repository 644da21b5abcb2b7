"""The entries of a matrix that a table of labels names."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from corefold.completion.files.labelled import LabelledMatrix
from corefold.completion.labels import Lookup, text_of
from corefold.errors import InputError
from corefold.tables.columns import require_columns, require_filled


@dataclass(frozen=True)
class Places:
    """Entries to predict.

    Attributes:
        labels: a table of their row and column labels.
        rows: their rows, -1 for a label that the matrix does not have.
        columns: their columns, likewise.
        notes: a line for each guess.
    """

    labels: pd.DataFrame
    rows: Int[np.ndarray, " n"]
    columns: Int[np.ndarray, " n"]
    notes: list[str] = field(default_factory=list)

    @property
    def cold(self) -> Bool[np.ndarray, " n"]:
        """Which entries are not in the matrix."""
        return (self.rows < 0) | (self.columns < 0)


def places_of(table: pd.DataFrame, matrix: LabelledMatrix, source: str) -> Places:
    """The places that the rows of a table name.

    Raises:
        InputError: a column that is missing or empty, or a label that the matrix has twice.
    """
    names = list(matrix.names[:2])
    require_columns(table, names, source)
    notes: list[str] = []
    answers = ("column means predict them", "row means predict them")
    sides = zip((matrix.rows, matrix.columns), names, answers, strict=True)
    rows, columns = (
        _places(labels, table[name], answer, matrix.source, source, notes) for labels, name, answer in sides
    )
    return Places(table[names].reset_index(drop=True), rows, columns, notes)


def _places(
    labels: pd.Index, wanted: pd.Series, answer: str, matrix_source: str, source: str, notes: list[str]
) -> Int[np.ndarray, " n"]:
    require_filled(wanted, source)
    lookup, changes = Lookup(labels.tolist()), []
    if lookup.twice is not None:
        raise InputError(
            f"{matrix_source} has the label {lookup.twice!r} more than once, so it does not name a single entry"
        )
    places = lookup.places(wanted.tolist(), changes)
    if changes:
        notes.append(
            f"{source}: {len(changes)} of column {wanted.name!r} are read as whole numbers: {changes[0]}"
        )
    missing = np.flatnonzero(places < 0)
    if len(missing):
        first = text_of(wanted.iloc[missing[0]])
        notes.append(
            f"{source}: {len(missing)} of {len(places)} in column {wanted.name!r} are not in {matrix_source}, the "
            f"first is {first!r} in row {missing[0] + 1}; {answer}"
        )
    return places
