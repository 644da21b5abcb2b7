"""The matrices of `catalogue`, and draws of their hidden entries."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.completion.matrices import CompletionCase
from benchmarks.completion.packaged_data import packaged_table
from benchmarks.completion.wide.catalogue import TABLES, TableSet

MAX_ENTRIES, MAX_ROWS, MAX_COLUMNS = 12_000, 1000, 100  # for the peers' sake
BLOCKS_PER_COLUMN = 15  # A hidden block is this share of a column.
FEWEST = 20  # entries of a column with one judged


@dataclass(frozen=True)
class WideCase(CompletionCase):
    """A table with hidden entries.

    Attributes:
        units: "one" or "mixed".
        spread: of each column's seen entries, the standard deviation.
    """

    units: str = "one"
    spread: np.ndarray = field(default_factory=lambda: np.ones(1))

    @property
    def measure(self) -> str:
        """The name of the error by which methods are compared."""
        return "rmse" if self.units == "one" else "by_column"

    def figures(self, predicted: np.ndarray) -> dict[str, float]:
        """Root mean square errors at the judged entries: in the table's units, and over the columns' spread."""
        return {"rmse": self.error(predicted, "rmse"), "by_column": self.error(predicted, "by_column")}

    def error(self, predicted: np.ndarray, measure: str) -> float:
        return self.error_of(predicted, self.judged[1], self.judged[2], measure)

    def error_of(
        self, predicted: np.ndarray, columns: np.ndarray, truth: np.ndarray, measure: str | None = None
    ) -> float:
        """The root mean square error at any entries, by the table's measure unless one is named."""
        errors = predicted - truth
        if (measure or self.measure) == "by_column":
            errors = errors / self.spread[columns]
        return float(np.sqrt(np.mean(errors**2)))

    def about(self) -> dict[str, Any]:
        same = {key: value for key, value in super().about().items() if "rank" not in key}
        return {**same, "units": self.units, "measure": self.measure}


def wide_case(name: str, seed: int) -> WideCase:
    """A table of `catalogue` with some of its entries hidden."""
    chosen = TABLES[name]
    truth = _capped(matrix(chosen), chosen, np.random.default_rng(zlib.crc32(name.encode())))
    stream = np.random.default_rng((seed, zlib.crc32(name.encode())))
    known = ~np.isnan(truth)
    hidden = known & (_blocks if chosen.blocks else _single)(truth.shape, chosen.share, stream)
    rows, columns = (known & ~hidden).nonzero()
    seen = np.where(known & ~hidden, truth, np.nan)
    counts = np.isfinite(seen).sum(0)
    spread = np.array(
        [np.nanstd(column) if count > 1 else 0.0 for column, count in zip(seen.T, counts, strict=True)]
    )
    # A column without spread has no error over its spread.
    judged_rows, judged_columns = (hidden & (spread > 0)).nonzero()
    return WideCase(
        chosen.kind,
        (truth.shape[0], truth.shape[1]),
        (rows, columns, truth[rows, columns]),
        (judged_rows, judged_columns, truth[judged_rows, judged_columns]),
        units=chosen.units,
        spread=np.where(spread > 0, spread, 1.0),
    )


def matrix(chosen: TableSet) -> np.ndarray:
    """The whole table, NaN where it has no value, without empty rows and constant columns."""
    if chosen.source.startswith("sklearn/"):
        from sklearn import datasets

        values = getattr(datasets, f"load_{chosen.source.removeprefix('sklearn/')}")()
        values = (
            np.hstack([values.data, values.target]) if chosen.source.endswith("linnerud") else values.data
        )
    else:
        values = _numbers(packaged_table(chosen.source), chosen)
    values = np.asarray(values, float)
    values = values[np.isfinite(values).any(1)]
    counts = np.isfinite(values).sum(0)
    lowest, highest = np.fmin.reduce(values), np.fmax.reduce(values)
    return values[:, (lowest < highest) & (counts >= min(FEWEST, len(values) / 2))]


def _numbers(table: Any, chosen: TableSet) -> np.ndarray:
    if chosen.where is not None:
        table = table[table[chosen.where[0]] == chosen.where[1]]
    if chosen.pivot is not None:
        return _pivoted(table, chosen)
    if chosen.keep is not None:
        return table[list(chosen.keep)].to_numpy(float)
    names = [
        name
        for name in table.columns
        if name not in ("rownames", *chosen.drop) and table[name].dtype.kind in "if"
    ]
    return table[names].to_numpy(float)


def _pivoted(table: Any, chosen: TableSet) -> np.ndarray:
    """One row for each value of the first column, one column for each of the second; the fullest of them."""
    rows, columns, values = chosen.pivot or ("", "", "")
    if table[values].dtype.kind == "O":  # yes or no
        table = table.assign(**{values: (table[values] == table[values].max()).astype(float)})
    wide = table.pivot_table(index=rows, columns=columns, values=values, aggfunc="mean").to_numpy(float)
    if (
        wide.size > 20 * MAX_ENTRIES
    ):  # ratings: the columns with most entries, then the rows with most in these
        wide = wide[:, np.argsort(-np.isfinite(wide).sum(0), kind="stable")[:MAX_COLUMNS]]
        return wide[np.argsort(-np.isfinite(wide).sum(1), kind="stable")[: 3 * MAX_COLUMNS]]
    for axis in (1, 0):
        counts = np.isfinite(wide).sum(axis)
        wide = (
            wide[counts >= chosen.least * counts.max()]
            if axis
            else wide[:, counts >= chosen.least * counts.max()]
        )
    return wide


def _capped(values: np.ndarray, chosen: TableSet, stream: np.random.Generator) -> np.ndarray:
    """At most so many columns and rows, drawn at random in their order; of series the first rows."""
    width = values.shape[1]
    if width > MAX_COLUMNS:
        values = values[:, np.sort(stream.choice(width, MAX_COLUMNS, replace=False))]
    most = min(MAX_ROWS, MAX_ENTRIES // values.shape[1])
    if len(values) > most and chosen.blocks:
        values = values[:most]
    elif len(values) > most:
        values = values[np.sort(stream.choice(len(values), most, replace=False))]
    lowest, highest = np.fmin.reduce(values), np.fmax.reduce(values)
    return values[:, lowest < highest]


def _single(shape: tuple[int, ...], share: float, stream: np.random.Generator) -> np.ndarray:
    return stream.random(shape) < share


def _blocks(shape: tuple[int, ...], share: float, stream: np.random.Generator) -> np.ndarray:
    """Runs of rows, each in one column."""
    hidden = np.zeros(shape, bool)
    length = max(2, shape[0] // BLOCKS_PER_COLUMN)
    while hidden.mean() < share:
        start, column = stream.integers(0, shape[0] - length), stream.integers(0, shape[1])
        hidden[start : start + length, column] = True
    return hidden
