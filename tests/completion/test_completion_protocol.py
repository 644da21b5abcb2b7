"""A solver of one's own: an object with the methods of `Solver` is all that the estimator needs."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from observations import fitted, low_rank, relative, with_holes

from corefold.completion import DeepMatrixCompletion
from corefold.completion.solvers import LowRank, Solver

WHOLE = 2 + low_rank(60, 40, 3)
HOLES = with_holes(WHOLE, 0.6)


class HardImpute:
    """Fill the gaps with the current matrix, cut to its rank by one power iteration, and repeat."""

    patience = 10

    def path(self, problem, start):
        factors = start
        while True:
            residual, sums = problem.residual(factors), problem.partition.sum
            q, _ = problem.partition.qr(factors.u * factors.s + residual.times(factors.v))
            right = factors.v * factors.s @ sums(factors.u.mT @ q) + sums(residual.transposed_times(q))
            factors = LowRank.product(q, right, problem.partition)
            yield problem.step(factors)

    def settle(self, problem, start, best):
        yield from ()

    def refit(self, problem, step):
        return islice(self.path(problem, step.factors), 30)


def test_it_completes_a_matrix():
    solver = HardImpute()
    assert isinstance(solver, Solver)
    model = DeepMatrixCompletion(4, solver=solver, random_state=0).fit(HOLES)
    assert relative(fitted(model, WHOLE.shape), WHOLE) < 1e-3
    assert {step["stage"].split()[0] for step in model.path_} == {"path", "refit"}
    gaps = np.isnan(HOLES)
    assert relative(model.transform(HOLES)[gaps], WHOLE[gaps]) < 1e-2
    lower, upper = model.intervals([0], [0])
    assert lower < upper
    assert model.partial_fit(HOLES[:20]).rank_ == model.model_.main.regression.loadings.shape[1]


def test_an_object_without_the_methods_is_refused():
    class Nothing:
        patience = 10

    with pytest.raises(ValueError, match="solver must be one of schatten, descent, als, or an object"):
        DeepMatrixCompletion(solver=Nothing()).fit(HOLES)
