"""Widths of intervals from errors at held-out entries: split-conformal, nearer to each column's own the more it has."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

BORROWED = 30.0  # entries of other columns that a column's own errors are taken with
FEWEST_OWN = 10  # held-out entries of a column from which on its own count
GRID = 1000  # quantiles that stand for the errors of all columns


@dataclass(frozen=True)
class Calibration:
    """Absolute errors of scores at entries that the fit used only to choose by.

    Attributes:
        errors: at held-out entries.
        columns: of these.
        deviation: of the fitted entries' residuals, by column: errors over it are alike in all columns.
        cold_row: ascending errors of each entry when it is predicted without its row.
        cold_column: ascending errors when it is predicted without its column.
    """

    errors: Float[Tensor, " held_out"]
    columns: Int[Tensor, " held_out"]
    deviation: Float[Tensor, " width"]
    cold_row: Float[Tensor, " cold"]
    cold_column: Float[Tensor, " cold"]

    @classmethod
    def of(cls, errors: Tensor, columns: Tensor, width: int) -> Calibration:
        """With the same deviation in all columns, and nothing known of rows and columns without entries."""
        none = errors.new_zeros(0)
        return cls(errors.abs(), columns, errors.new_ones(width), none, none)

    def __len__(self) -> int:
        return len(self.errors)

    def margins(self, coverage: float) -> Float[Tensor, " width"]:
        """Half the width of an interval that covers a new entry with this probability, by column.

        The quantile is that of a column's errors and, counted as BORROWED of them, those of all; infinite if that takes
        more errors than there are.

        Source: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman 2018, section 2.2; Tibshirani, Barber, Candes, Ramdas 2019
        for weights.
        """
        relative = (self.errors / self.deviation[self.columns]).double().cpu().numpy()
        columns, width = self.columns.cpu().numpy(), len(self.deviation)
        everywhere = np.sort(relative)
        margin = np.full(width, _quantile(everywhere, np.ones(len(everywhere)), coverage))
        counts = np.bincount(columns, minlength=width)
        if len(everywhere) > GRID:
            everywhere = np.quantile(everywhere, (np.arange(GRID) + 0.5) / GRID)
        order = np.argsort(columns, kind="stable")
        ends = np.concatenate([[0], counts.cumsum()])
        for column in np.flatnonzero(counts >= FEWEST_OWN) if width > 1 and math.isfinite(margin[0]) else ():
            own = relative[order[ends[column] : ends[column + 1]]]
            each = np.full(len(everywhere), min(BORROWED, len(relative)) / len(everywhere))
            both, weights = np.concatenate([own, everywhere]), np.concatenate([np.ones(len(own)), each])
            by_size = np.argsort(both, kind="stable")
            margin[column] = _quantile(both[by_size], weights[by_size], coverage)
        return torch.from_numpy(margin).to(self.deviation) * self.deviation

    def cold_margins(self, coverage: float) -> tuple[float, float]:
        """The same for entries of a row, and of a column, that has no observed entry."""
        return tuple(
            _quantile(each.double().cpu().numpy(), np.ones(len(each)), coverage)
            for each in (self.cold_row, self.cold_column)
        )  # pyright: ignore[reportReturnType]

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps."""
        return {
            "misses": self.errors,
            "missed_columns": self.columns,
            "deviation": self.deviation,
            "cold_row": self.cold_row,
            "cold_column": self.cold_column,
        }

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor], width: int) -> Calibration:
        """The inverse of `tensors`; older files have the errors alone."""
        errors = named["misses"]
        if "missed_columns" not in named:
            return cls.of(errors, torch.zeros(len(errors), dtype=torch.int32), width)
        return cls(
            errors, *(named[name] for name in ("missed_columns", "deviation", "cold_row", "cold_column"))
        )

    def on(self, **changed: Tensor) -> Calibration:
        return replace(self, **changed)


def quantiles(errors: Float[Tensor, " n"]) -> Float[Tensor, " at_most_a_grid"]:
    """Absolute errors in ascending order, or GRID quantiles that stand for them."""
    errors = errors.abs().sort().values
    if len(errors) <= GRID:
        return errors
    places = (torch.arange(GRID, device=errors.device) + 0.5) / GRID * len(errors)
    return errors[places.long()]


def _quantile(ascending: np.ndarray, weights: np.ndarray, coverage: float) -> float:
    """The smallest number that, beside one entry more, this share of the weights does not exceed; else infinity."""
    place = np.searchsorted(weights.cumsum(), coverage * (weights.sum() + 1) - 1e-9)
    return float(ascending[place]) if place < len(ascending) else math.inf
