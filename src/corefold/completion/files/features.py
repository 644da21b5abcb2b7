"""Tables of features beside a matrix: a line for each row, or each column, found by its label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from corefold.completion.files.frames import label_index
from corefold.completion.files.labelled import LabelledMatrix
from corefold.completion.files.reading import FileReading, read_file_table
from corefold.completion.labels import Lookup, text_of
from corefold.errors import InputError
from corefold.tables.columns import require_filled
from corefold.tables.number_cells import numbers_of


def with_features(
    matrix: LabelledMatrix, side: str, path: Path, reading: FileReading | None = None
) -> tuple[LabelledMatrix, pd.DataFrame]:
    """The matrix, with a row or column more for each label that only the features have, and these in its order.

    Args:
        matrix: of a file.
        side: "row" or "column".
        path: a table with a line for each row, or column. Its labels are in the column of the name that they have in
            the matrix's file, else in the first one. Where rows have no labels, lines are in their order.
        reading: of files.

    Raises:
        InputError: not readable, labels missing or given twice, or none of the matrix's.
    """
    notes: list[str] = []
    table, source = read_file_table(path, reading or FileReading(), notes)
    labels = matrix.rows if side == "row" else matrix.columns
    if side == "row" and not matrix.labelled:
        if len(table) != len(labels):
            raise InputError(
                f"{source} has {len(table)} lines for {len(labels)} rows of {matrix.source}, which have no labels"
            )
        return _with_notes(matrix, notes), _features(table, source, reading, notes)
    name = matrix.names[0 if side == "row" else 1]
    if name not in table.columns:
        name = str(table.columns[0])
        notes.append(
            f"{source}: column {name!r} is read as the labels of the {side}s, because it is the first"
        )
    require_filled(table[name], source)
    lines = label_index(table[name])
    lookup = Lookup(lines.tolist())
    if lookup.twice is not None:
        raise InputError(
            f"{source}: {lookup.twice!r} is twice in column {name!r}; features have one line each"
        )
    places = lookup.places(labels.tolist())
    missing = np.flatnonzero(places < 0)
    if len(missing) == len(places):
        raise InputError(
            f"{source}: column {name!r} has none of the {len(labels)} labels of {matrix.source}; the first there is "
            f"{text_of(labels[0])!r}, here {text_of(lines[0])!r}"
        )
    if len(missing):
        notes.append(
            f"{source}: {len(missing)} of {len(labels)} {side}s have no line, the first is "
            f"{text_of(labels[missing[0]])!r}; they are taken for average ones"
        )
    beyond = np.setdiff1d(np.arange(len(lines)), places)
    if len(beyond):
        notes.append(
            f"{source}: {len(beyond)} {side}s are not in {matrix.source}, the first is {text_of(lines[beyond[0]])!r}; "
            "their features alone predict them"
        )
    features = _features(table.drop(columns=name), source, reading, notes)
    ordered = features.reindex(np.concatenate([places, beyond])).reset_index(drop=True)
    return _with_notes(_extended(matrix, side, lines[beyond]), notes), ordered


def _features(
    table: pd.DataFrame, source: str, reading: FileReading | None, notes: list[str]
) -> pd.DataFrame:
    """Columns of numbers as floats, those of words as they are."""
    if not table.shape[1]:
        raise InputError(f"{source} has no column of features beside the labels")
    numbers = numbers_of(table, source, (reading or FileReading()).spelling)
    words = numbers.words()
    numbers.require_numbers([place for place in range(table.shape[1]) if place not in words])
    notes.extend(numbers.notes)
    gaps = (reading or FileReading()).spelling.gap_words
    columns = {
        name: table.iloc[:, place]
        .where(lambda cells: ~cells.astype(str).str.strip().isin(gaps), None)
        .to_numpy(object)
        if place in words
        else numbers.values[:, place]
        for place, name in enumerate(table.columns)
    }
    return pd.DataFrame(columns)


def _extended(matrix: LabelledMatrix, side: str, beyond: pd.Index) -> LabelledMatrix:
    """With rows or columns without entries behind the others."""
    if not len(beyond):
        return matrix
    labels = matrix.rows if side == "row" else matrix.columns
    if labels.dtype != beyond.dtype:
        labels, beyond = labels.astype(object), beyond.astype(object)
    longer, observed = labels.append(beyond), matrix.observed
    if side == "row":
        starts = torch.cat([observed.starts, observed.starts[-1:].expand(len(beyond))])
        return replace(matrix, rows=longer, observed=replace(observed, starts=starts))
    starts = torch.cat([observed.column_starts, observed.column_starts[-1:].expand(len(beyond))])
    return replace(matrix, columns=longer, observed=replace(observed, column_starts=starts))


def _with_notes(matrix: LabelledMatrix, notes: list[str]) -> LabelledMatrix:
    return replace(matrix, notes=[*matrix.notes, *notes])
