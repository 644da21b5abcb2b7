"""Widths of intervals from errors at held-out entries: split-conformal, by column where a column has enough of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

BORROWED = 50.0  # errors of all columns that a column's own errors are taken with
FEWEST_OWN = 50  # held-out entries of a column from which on its own count
PRIOR_ERRORS = 10.0  # of a common share of a column's spread, that its deviation counts beside its own
GRID = 1000  # quantiles that stand for many errors
FEATURED = ("featured_row", "featured_column")  # in a file of a fit with features


@dataclass(frozen=True)
class Calibration:
    """Absolute errors at entries that the fit used only to choose by, in units of the data.

    Attributes:
        errors: at held-out entries.
        columns: of these.
        scores: the same errors in units of the main member of the blend; none in a file of an older version.
        deviation: of each column: errors over it are alike in all columns.
        cold_row: ascending errors, over the deviations, of entries that are predicted without their row.
        cold_column: ascending errors of entries that are predicted without their column.
        featured_row, featured_column: the same where features of the row, or the column, are known; none in a fit
            without features. Before `Blend.calibrated` those at the entries of `errors`.
    """

    errors: Float[Tensor, " held_out"]
    columns: Int[Tensor, " held_out"]
    scores: Float[Tensor, " scored"]
    deviation: Float[Tensor, " width"]
    cold_row: Float[Tensor, " cold"]
    cold_column: Float[Tensor, " cold"]
    featured_row: Float[Tensor, " featured"]
    featured_column: Float[Tensor, " featured"]

    @classmethod
    def of(cls, errors: Tensor, columns: Tensor, width: int, scores: Tensor | None = None) -> Calibration:
        """With one deviation for all columns, and nothing known of rows and columns without entries."""
        none = errors.new_zeros(0)
        scores = none if scores is None else scores.abs()
        return cls(errors.abs(), columns, scores, errors.new_ones(width), none, none, none, none)

    def __len__(self) -> int:
        return len(self.errors)

    def relative(self) -> Float[Tensor, " held_out"]:
        """Each error over its column's deviation, made without it: with it no error would be much larger."""
        columns = self.columns.long()
        if bool((self.deviation == 1).all()):  # one for all columns, of no errors
            return self.errors
        counts = torch.bincount(columns, minlength=len(self.deviation)).to(self.errors)[columns]
        squares = (counts + PRIOR_ERRORS) * self.deviation[columns].square()
        return self.errors / ((squares - self.errors.square()) / (counts - 1 + PRIOR_ERRORS)).sqrt()

    def margins(self, coverage: float) -> Float[Tensor, " width"]:
        """Half the width of an interval that covers a new entry with this probability, by column.

        The quantile is that of a column's errors and, counted as BORROWED, of all errors; infinite if that takes more
        errors than there are.

        Source: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman 2018, section 2.2; for weights Tibshirani, Barber, Candes,
        Ramdas 2019.
        """
        relative = self.relative().double().cpu().numpy()
        columns, width = self.columns.cpu().numpy(), len(self.deviation)
        everywhere = np.sort(relative)
        margins = np.full(width, quantile(everywhere, np.ones(len(everywhere)), coverage))
        if len(everywhere) and math.isfinite(margins[0]) and width > 1:
            if len(everywhere) > GRID:
                everywhere = np.quantile(everywhere, (np.arange(GRID) + 0.5) / GRID)
            borrowed = np.full(len(everywhere), min(BORROWED, len(relative)) / len(everywhere))
            own = np.split(
                relative[np.argsort(columns, kind="stable")],
                np.bincount(columns, minlength=width).cumsum()[:-1],
            )
            for column, errors in enumerate(own):
                if len(errors) >= FEWEST_OWN:
                    both, weights = np.append(errors, everywhere), np.append(np.ones(len(errors)), borrowed)
                    order = np.argsort(both, kind="stable")
                    margins[column] = quantile(both[order], weights[order], coverage)
        return torch.from_numpy(margins).to(self.deviation) * self.deviation

    def cold_margins(self, coverage: float, featured: bool) -> tuple[Float[Tensor, " width"], float]:
        """The same where a row, by column, and where a column has no observed entry, and features or none."""
        kept = (self.featured_row, self.featured_column) if featured else (self.cold_row, self.cold_column)
        row, column = (quantile(each.double().cpu().numpy(), np.ones(len(each)), coverage) for each in kept)
        return row * self.deviation, column

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps."""
        if not len(self.cold_row) and not bool(self.columns.any()):  # from a file that kept nothing else
            return {"misses": self.errors}
        scores = {"missed_scores": self.scores} if len(self.scores) else {}
        featured = {name: getattr(self, name) for name in FEATURED if len(getattr(self, name))}
        return {
            **scores,
            "misses": self.errors,
            "missed_columns": self.columns,
            "deviation": self.deviation,
            "cold_row": self.cold_row,
            "cold_column": self.cold_column,
            **featured,
        }

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor], width: int) -> Calibration:
        """The inverse of `tensors`; older files have the errors alone."""
        errors = named["misses"]
        if "missed_columns" not in named:
            return cls.of(errors, torch.zeros(len(errors), dtype=torch.int32), width)
        names = ("missed_columns", "missed_scores", "deviation", "cold_row", "cold_column", *FEATURED)
        return cls(errors, *(named.get(name, errors.new_zeros(0)) for name in names))


def deviations(
    errors: Float[Tensor, " n"], columns: Int[Tensor, " n"], spread: Float[Tensor, " width"]
) -> Float[Tensor, " width"]:
    """Of each column's errors, the nearer to a common share of the column's spread, the fewer it has."""
    if not len(errors) or not bool((spread > 0).all()):
        return torch.ones_like(spread)
    share = (errors / spread[columns]).square().mean().sqrt()
    squares = torch.zeros_like(spread).index_add_(0, columns, errors.square())
    counts = torch.zeros_like(spread).index_add_(0, columns, torch.ones_like(errors))
    deviations = ((squares + PRIOR_ERRORS * (share * spread).square()) / (counts + PRIOR_ERRORS)).sqrt()
    return deviations if bool((deviations > 0).all()) else torch.ones_like(spread)


def summary(errors: Float[Tensor, " n"]) -> Float[Tensor, " at_most_a_grid"]:
    """Absolute errors in ascending order, or GRID quantiles that stand for them."""
    errors = errors.abs().sort().values
    if len(errors) <= GRID:
        return errors
    places = (torch.arange(GRID, device=errors.device) + 0.5) / GRID * len(errors)
    return errors[places.long()]


def quantile(ascending: np.ndarray, weights: np.ndarray, coverage: float) -> float:
    """The least number that a new one, of weight 1, exceeds with at most the rest of the probability; else infinity."""
    place = np.searchsorted(weights.cumsum(), coverage * (weights.sum() + 1) - 1e-9)
    return float(ascending[place]) if place < len(ascending) else math.inf
