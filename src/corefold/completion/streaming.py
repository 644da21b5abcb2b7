"""More rows for a fitted model, one batch at a time, without the rows that came before."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.factors import LowRank
from corefold.completion.model import Model
from corefold.completion.observed import Observed
from corefold.completion.distributed import Rows

SWEEPS = 3


@dataclass(frozen=True)
class Memory:
    """What the rows so far say of each column: the normal equations of its coordinates.

    With a row's coordinates fixed, least squares needs no more of it than this; so each batch moves a column as far as
    all rows together would have it (recursive least squares).
    """

    gram: Float[Tensor, "width rank rank"]

    @classmethod
    def of(cls, model: Model) -> Memory:
        """Of the rows that a model was fitted to: what entries observed at random leave of them on average."""
        return cls(model.seen[:, None, None] * model.factors.s.square().diag())

    def learn(self, model: Model, observed: Observed, shared: Rows) -> tuple[Model, Memory]:
        """The model with these rows, whose own they become, and what to keep of them."""
        s, v = model.factors.s, model.factors.v
        before = v
        # The model's ridge is on coordinates of rows, which have the data's units; those of columns have none.
        ridge = (model.ridge * s.square()).clamp(min=torch.finfo(s.dtype).tiny)
        for _ in range(SWEEPS):
            rows = replace(model, factors=LowRank(model.factors.u, s, v)).fold_in(observed)
            coordinates = rows.factors.u * s
            left = observed.with_values(observed.values - rows.biases.at(observed))
            gram = self.gram + shared.sum(_gram(observed, coordinates))
            right = shared.sum(left.transposed_times(coordinates)) + (self.gram @ before[..., None])[..., 0]
            gram = gram + torch.diag(ridge + torch.finfo(s.dtype).eps * gram.amax())
            v = torch.linalg.solve(gram, right + ridge * before)
        rows = replace(model, factors=LowRank(model.factors.u, s, v)).fold_in(observed)
        coordinates = rows.factors.u * s
        learned = replace(rows, factors=LowRank(rows.factors.u, s, v))
        return learned, Memory(self.gram + shared.sum(_gram(observed, coordinates)))


def _gram(observed: Observed, coordinates: Tensor) -> Tensor:
    """For each column the sum over its rows of their coordinates' outer product."""
    rank = coordinates.shape[1]
    outer = (coordinates[:, :, None] * coordinates[:, None, :]).flatten(1)
    ones = observed.with_values(torch.ones_like(observed.values))
    return ones.transposed_times(outer).unflatten(1, (rank, rank))
