"""More rows for a fitted model, one batch at a time, without the rows that came before."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.model import CompletedMatrix
from corefold.completion.observed import Observed
from corefold.completion.units import in_units

SWEEPS = 3
WORKING_GRAMS = 5  # copies of `ColumnEquations.gram` that learning works with


@dataclass(frozen=True)
class ColumnEquations:
    """The normal equations of each column's loadings, summed over all rows so far.

    While a row's coordinates are fixed, least squares needs nothing else of the row. So each batch moves a column as
    far as all rows together would move it (recursive least squares).
    """

    gram: Float[Tensor, "width rank rank"]

    @classmethod
    def of(cls, model: CompletedMatrix) -> ColumnEquations:
        """The expected equations of the rows that a model was fitted to, if their entries are observed at random."""
        return cls(model.column_shares[:, None, None] * model.regression.scales.square().diag())

    def learn(
        self, model: CompletedMatrix, observed: Observed, partition: RowPartition
    ) -> tuple[CompletedMatrix, ColumnEquations]:
        """The model after these rows, whose matrix is theirs alone, and the equations with them."""
        if not len(model.regression.scales):
            rows = model.fold_in(observed)
            none = LowRank(rows.coordinates, model.factors.s, model.factors.v)
            return replace(
                model, biases=rows.biases, cold=rows.cold, factors=none, seen_rows=rows.seen_rows
            ), self
        before, scales = model.regression.loadings, model.regression.scales
        # The model's ridge is on coordinates of rows, which have the data's units; loadings have none.
        ridge = (model.regression.ridge * scales.square()).clamp(min=torch.finfo(scales.dtype).tiny)
        scores = in_units(observed, model.units)
        for _ in range(SWEEPS):
            rows = model.fold_in(observed)
            residual = scores.with_values(scores.values - rows.biases.at(scores))
            gram, right = (partition.sum(part) for part in residual.column_equations(rows.coordinates))
            gram += self.gram
            right += (self.gram @ before[..., None])[..., 0] + ridge * before
            gram += torch.diag(ridge + torch.finfo(scales.dtype).eps * gram.amax())
            loadings = torch.linalg.solve(gram, right).contiguous()
            model = replace(model, regression=replace(model.regression, loadings=loadings))
        rows = model.fold_in(observed)
        added = float(partition.sum(scales.new_tensor(float(observed.shape[0]))))
        model = replace(model, regression=replace(model.regression, height=model.regression.height + added))
        factors = LowRank.product(rows.coordinates, rows.loadings, partition)
        gram, _ = observed.column_equations(rows.coordinates)
        equations = ColumnEquations(self.gram + partition.sum(gram))
        return replace(
            model, biases=rows.biases, cold=rows.cold, factors=factors, seen_rows=rows.seen_rows
        ), equations
