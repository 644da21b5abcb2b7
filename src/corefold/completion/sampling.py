"""Draws of the missing entries of rows, for multiple imputation, and the tables that they complete."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from corefold.completion.blend import Blend
from corefold.completion.clipping import Bounds, clipped
from corefold.completion.labelled_input import FittedLabels
from corefold.completion.predictive_errors import (
    BLOCK_NUMBERS,
    ErrorModel,
    Rows,
    extended,
    looked_up,
    normal,
    plain,
    root_of,
    scores_of,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FrameForm:
    """What makes a frame of pandas of an array: its labels and the types of its columns."""

    index: pd.Index
    columns: pd.Index
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, X: Any, labels: FittedLabels) -> FrameForm | None:
        """The form of a frame with a row for each of the matrix; None of anything else."""
        if labels.columns is not None or not all(hasattr(X, name) for name in ("iloc", "columns", "dtypes")):
            return None
        return cls(X.index, X.columns, tuple(X.dtypes))

    def frame(
        self, filled: Float[np.ndarray, "height width"], gaps: Bool[np.ndarray, " width"]
    ) -> pd.DataFrame:
        """A frame with the types of before, but where a column of whole numbers had gaps: its draws are not whole."""
        import pandas as pd

        frame = pd.DataFrame(filled, index=self.index, columns=self.columns)
        for place, dtype in enumerate(self.dtypes):
            if (not gaps[place] or dtype.kind == "f") and not isinstance(dtype, pd.SparseDtype):
                frame.isetitem(place, frame.iloc[:, place].astype(dtype))
        return frame


@dataclass(frozen=True)
class Sampler:
    """Draws of the missing entries of rows.

    Attributes:
        model: the fitted matrix.
        bounds: of the values.
        rows: all rows.
        errors: those of the model.
    """

    model: Blend
    bounds: Bounds | None
    rows: Rows
    errors: ErrorModel

    def completed(self, count: int, generator: torch.Generator) -> Float[np.ndarray, "count height width"]:
        """Matrices whose missing entries are drawn."""
        observed = self.rows.observed
        gaps = torch.ones(observed.shape, dtype=torch.bool)
        places = observed.row_of().long().cpu(), observed.columns.long().cpu()
        gaps[places] = False
        values = observed.values.cpu()
        filled = values.new_empty(count, *observed.shape)
        filled[:, *places] = values
        row, column = gaps.nonzero(as_tuple=True)
        for entries, drawn in self._draws(row, column, count, generator):
            filled[:, row[entries], column[entries]] = drawn.to(values)
        return filled.numpy()

    def entries(
        self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"], count: int, generator: torch.Generator
    ) -> Float[np.ndarray, "count n"]:
        """Single entries: the value of an observed one, and draws of the others."""
        observed = self.rows.observed
        width = observed.shape[1]
        # An entry that is asked for twice is one entry, and all are in the order of their rows.
        keys, back = (rows * width + columns).unique(return_inverse=True)
        known = (observed.row_of().long() * width + observed.columns).cpu()
        place = torch.searchsorted(known, keys).clamp(max=max(len(known) - 1, 0))
        is_known = known[place] == keys if len(known) else torch.zeros(len(keys), dtype=torch.bool)
        values = observed.values.cpu()
        filled = values.new_empty(count, len(keys))
        filled[:, is_known] = values[place[is_known]]
        missing = (~is_known).nonzero()[:, 0]
        row, column = keys[missing] // width, keys[missing] % width
        for entries, drawn in self._draws(row, column, count, generator):
            filled[:, missing[entries]] = drawn.to(values)
        return filled[:, back].numpy()

    def _draws(
        self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"], count: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Float[Tensor, "count block"]]]:
        """Draws of missing entries, whose rows ascend, and which of the entries these are, some rows at a time."""
        seeds = torch.randint(2**62, (count,), generator=generator).tolist()
        for entries in _blocks(rows, len(self.errors.regression.ridge)):
            used, place = rows[entries].unique(return_inverse=True)
            block = _Block(self.model, self.errors, self.rows.part(used), place, columns[entries])
            values = torch.empty(count, len(place), dtype=torch.float64)
            for draw, seed in enumerate(seeds):
                # Made anew in each block, because all draws' loadings of a wide matrix would not fit in memory.
                shared = self.errors.shared(torch.Generator().manual_seed(seed))
                values[draw] = block.values(block.errors(*shared, generator), self.bounds, generator)
            yield entries, values


class _Block:
    """Entries of some rows, their predictions and the distribution of their errors."""

    def __init__(self, model: Blend, errors: ErrorModel, part: Rows, rows: Tensor, columns: Tensor) -> None:
        self.model, self.error_model, self.rows, self.columns = model, errors, rows, columns
        self.device = part.observed.values.device
        predicted = model.fold_in(part.observed, part.features)
        main, regression = predicted.members[0], errors.regression
        at = rows.to(self.device), columns.to(self.device)
        self.predicted = predicted.entries(*at)
        self.seen_rows = main.seen_rows[at[0]].cpu()
        self.cold = ~(self.seen_rows & main.seen_columns[at[1]].cpu())
        self.root = root_of(regression, part.observed)
        self.residual = scores_of(main, part.observed)
        coordinates = regression.coordinates(self.residual)
        self.low = torch.linalg.vecdot(coordinates[rows], regression.loadings[columns])
        self.sizes = errors.sizes[columns]
        featured = torch.zeros_like(self.cold) if part.features is None else part.features.cpu().any(1)[rows]
        self.cold_sizes = _cold_sizes(
            model, errors, self.seen_rows[self.cold], featured[self.cold], columns[self.cold]
        )

    def errors(
        self,
        loadings: Float[Tensor, "width rank"],
        shifts: Float[Tensor, " width"],
        generator: torch.Generator,
    ) -> Float[Tensor, " n"]:
        """A draw of the errors, over their sizes, where these are the loadings."""
        regression, (height, rank) = self.error_model.regression, self.root.shape[:2]
        root_noise = math.sqrt(regression.noise)
        errors = root_noise * normal((len(self.rows),), generator)
        if rank:
            off = torch.linalg.solve_triangular(
                self.root.mT, normal((height, rank, 1), generator), upper=True
            )
            coordinates = root_noise * off[..., 0] + self.residual.fit_rows(loadings, regression.ridge[None])
            errors += torch.linalg.vecdot(coordinates[self.rows], loadings[self.columns]) - self.low
        return errors / self.sizes + shifts[self.columns]

    def values(
        self, errors: Float[Tensor, " n"], bounds: Bounds | None, generator: torch.Generator
    ) -> Float[Tensor, " n"]:
        """The entries with these errors, over their sizes, within the range of the units."""
        units, columns = self.model.main.units, self.columns.to(self.device)
        predicted = self.predicted.clone()
        if bool(self.cold.any()):
            independent = normal((self.cold_sizes.shape[1],), generator)
            off = looked_up(
                independent, self.error_model.levels, self.cold_sizes, torch.arange(len(independent))
            )
            predicted[self.cold.to(self.device)] += off.to(predicted)
        scores = units.forward(clipped(predicted, bounds, columns), columns)
        off = torch.where(self.cold, 0.0, self.error_model.calibrated(errors, self.columns))
        return plain(clipped(units.backward(scores + off.to(scores), columns), bounds, columns))


def _cold_sizes(
    model: Blend, errors: ErrorModel, seen_rows: Tensor, featured_rows: Tensor, columns: Int[Tensor, " n"]
) -> Float[Tensor, "levels n"]:
    """Magnitudes of errors where a row or a column has no entry, in units of the data, as those of intervals."""
    if not len(columns):
        return errors.levels.new_zeros(len(errors.levels), 0)
    column = columns.to(model.main.seen_columns.device)
    seen = seen_rows.to(column.device), model.main.seen_columns[column]
    featured = featured_rows.to(column.device), model.main.cold.featured()[1][column]
    shares = torch.erf(errors.levels / math.sqrt(2)).tolist()
    sizes = [plain(model.margins_of(seen, featured, column, share)) for share in shares]
    return extended(torch.stack(sizes), errors.levels)


def _blocks(rows: Int[Tensor, " n"], rank: int) -> Iterator[slice]:
    """Runs of entries in whole rows; in those of a run are about so many numbers as a block may have."""
    starts = torch.cat([rows.new_zeros(1), rows.diff().nonzero()[:, 0] + 1, rows.new_tensor([len(rows)])])
    numbers = starts * (rank + 1) + torch.arange(len(starts)) * rank**2
    start = 0
    while start < len(starts) - 1:
        end = int(torch.searchsorted(numbers, numbers[start] + BLOCK_NUMBERS, right=True)) - 1
        end = min(max(end, start + 1), len(starts) - 1)
        yield slice(int(starts[start]), int(starts[end]))
        start = end
