"""Each solver on matrices whose answer is known, and the way it gets there."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from observations import fitted, low_rank, relative, sparse, with_holes

from cases import gaussian, generator, matrix_with_spectrum
from corefold.completion import DeepMatrixCompletion
from corefold.completion.biases import Biases
from corefold.completion.distributed import RowPartition
from corefold.completion.entries import observed_entries
from corefold.completion.factors import LowRank
from corefold.completion.solvers import ALS, CompletionProblem, Descent, Schatten
from corefold.completion.split import split
from laws import orthonormal_columns, same_matrix, spans_same_space

ROWS = RowPartition()


def whole_of(factors):
    return factors.u * factors.s @ factors.v.mT


def test_shapes_are_checked_in_tests():
    with pytest.raises(TypeCheckError):
        LowRank(torch.ones(6, 3), torch.ones(4), torch.ones(7, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_product_is_the_svd_of_the_product(dtype):
    a, b = gaussian(17, 4, seed=1, dtype=dtype), gaussian(10, 4, seed=2, dtype=dtype)
    a[:, 3] = a[:, 0]  # rank-deficient
    found = LowRank.product(a, b, ROWS)
    expected = a.double() @ b.double().mT
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    same_matrix(whole_of(found), expected, tolerance)
    orthonormal_columns(found.u, tolerance)
    orthonormal_columns(found.v, tolerance)
    same_matrix(found.s[:3], torch.linalg.svdvals(expected)[:3], tolerance)
    halves = found.halves()
    same_matrix(halves[0] @ halves[1].mT, expected, tolerance)
    for half in halves:
        same_matrix(half.mT @ half, found.s.diag(), 10 * tolerance)


def test_leading_part_of_the_observed_values():
    expected = matrix_with_spectrum(40, 30, [9.0, 6.0, 3.0, 0.1, 0.05])
    observed = observed_entries(expected.numpy())
    found = LowRank.leading(observed, 3, ROWS, generator())
    u, s, vh = torch.linalg.svd(expected)
    same_matrix(found.s, s[:3], 1e-6)
    spans_same_space(found.u, u[:, :3], 1e-3)
    spans_same_space(found.v, vh[:3].mT, 1e-3)


def test_leading_part_of_sparse_values_is_that_over_the_share():
    observed, shown, dense = sparse(40, 30, 0.5)
    found = CompletionProblem(observed, ROWS).leading(30)
    same_matrix(whole_of(found), dense / (int(shown.sum()) / 1200), 1e-10)


def problem_of(holes):
    return CompletionProblem(observed_entries(holes), ROWS)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_deep_objective_goes_down_at_a_fixed_penalty(depth):
    holes = with_holes(low_rank(50, 35, 3) + 0.1 * gaussian(50, 35, seed=3).numpy(), 0.5)
    problem, solver = problem_of(holes), Schatten(depth=depth, products=100)
    factors = problem.leading(8)
    objectives = []
    for _ in range(15):
        step = solver.step(problem, factors, 0.5, 1e-3)
        factors = step.factors
        left = (
            problem.observed.values - whole_of(factors)[problem.observed.row_of(), problem.observed.columns]
        )
        expected = left.square().sum() / 2 + 0.5 * (factors.s ** (2 / depth)).sum()
        np.testing.assert_allclose(step.objective, expected, rtol=1e-10)
        objectives.append(step.objective)
    # Where a direction goes out a Gauss-Newton step may overshoot a little.
    assert all(after <= before * (1 + 5e-4) for before, after in pairwise(objectives))
    assert objectives[-1] < 0.8 * objectives[0]


def test_the_weights_are_the_tangent_of_the_penalty():
    factors = LowRank.product(gaussian(9, 3), gaussian(7, 3, seed=1), ROWS)
    s = factors.s.clone().requires_grad_()
    for depth in (2, 3, 5):
        (slope,) = torch.autograd.grad(0.7 * (s ** (2 / depth)).sum(), s)
        same_matrix(Schatten(depth=depth).ridge(factors, 0.7), slope, 1e-12)


EXACT = {
    "easy": ((120, 90), 4, 0.3, 1.0),
    "wide": ((60, 200), 3, 0.25, 1.0),
    "at 4 %, twice the degrees of freedom": ((500, 500), 5, 0.04, 1.0),
    "condition 100": ((400, 400), 6, 0.08, 100.0),
}


@pytest.mark.filterwarnings("ignore:.*degrees of freedom of a matrix")  # at the rank bound, not the rank
@pytest.mark.parametrize("name", EXACT)
def test_exact_recovery_finds_the_rank(name):
    shape, rank, share, condition = EXACT[name]
    whole = low_rank(*shape, rank, condition=condition)
    model = DeepMatrixCompletion(4 * rank, random_state=0).fit(with_holes(whole, share))
    assert model.rank_ == rank
    assert relative(fitted(model, shape), whole) < 1e-5


@pytest.mark.filterwarnings("ignore:.*degrees of freedom of a matrix")
def test_depth_3_is_exact_where_2_is_not():
    holes = with_holes(low_rank(200, 200, 4), 1.6 * 4 * 396 / 200**2)
    errors = []
    for depth in (2, 3):
        path = DeepMatrixCompletion(16, depth=depth, random_state=0).fit(holes).path_
        errors.append(min(step["held_out"] for step in path if step["stage"] == "path"))
    assert errors[0] > 1e-2
    assert errors[1] < 1e-5


@pytest.mark.filterwarnings("ignore:.*degrees of freedom of a matrix")
def test_noise_is_not_fitted():
    whole = low_rank(200, 200, 4)
    holes = with_holes(whole + 0.2 * gaussian(200, 200, seed=5).numpy(), 2 * 4 * 396 / 200**2)
    model = DeepMatrixCompletion(16, random_state=0).fit(holes)
    told = DeepMatrixCompletion(4, solver=ALS(0.1), random_state=0).fit(holes)
    assert model.rank_ == 4
    assert relative(fitted(model, whole.shape), whole) < 1.1 * relative(fitted(told, whole.shape), whole)


def test_als_told_the_rank():
    whole = low_rank(80, 60, 3)
    model = DeepMatrixCompletion(3, solver="als", random_state=0).fit(with_holes(whole, 0.4))
    assert relative(fitted(model, whole.shape), whole) < 1e-5


def test_als_with_a_penalty_is_the_nuclear_norms_minimum():
    # Proximal gradients, the obvious way, on the dense matrix.
    holes = with_holes(low_rank(25, 18, 2) + 0.2 * gaussian(25, 18, seed=3).numpy(), 0.6)
    there, expected = torch.from_numpy(~np.isnan(holes)), torch.zeros(25, 18, dtype=torch.float64)
    values = torch.from_numpy(np.nan_to_num(holes))
    for _ in range(3000):
        u, s, vh = torch.linalg.svd(torch.where(there, values, expected), full_matrices=False)
        expected = u * (s - 1.0).clamp(min=0) @ vh
    problem = problem_of(holes)
    factors = problem.leading(18)
    for step in islice(ALS(1.0).path(problem, factors), 300):
        factors = step.factors
    same_matrix(whole_of(factors), expected, 1e-4)
    for _ in range(30):
        factors = Schatten(depth=2).step(problem, factors, 1.0, 0.01).factors
    same_matrix(whole_of(factors), expected, 1e-4)


def steps_of(solver, problem, start, count):
    return [step.factors for step in islice(solver.path(problem, start), count)]


def test_compressed_descent_follows_the_wide_one():
    # All observed, the first gradient shows the subspace that the wide form never leaves.
    whole = torch.from_numpy(low_rank(30, 30, 2, condition=2.0))
    problem = problem_of(whole.numpy())
    start = problem.leading(2)
    settings = {"init_scale": 0.03, "every": 25, "lr": 0.1}
    wide = steps_of(Descent(compressed=False, **settings), problem, start, 40)
    compressed = steps_of(Descent(gamma=0.0, **settings), problem, start, 40)

    def errors(path):
        return np.array([float((whole_of(factors) - whole).norm() / whole.norm()) for factors in path])

    assert errors(wide)[0] > 0.99
    assert errors(wide)[-1] < 1e-3
    assert errors(compressed)[-1] < 1e-3
    # One singular value after the other is learned, and each at the same time to a few percent.
    for level in (0.9, 0.6, 0.3, 0.02):
        first, second = (int((errors(path) < level).argmax()) for path in (wide, compressed))
        assert abs(first - second) <= 2


def test_gamma_moves_the_bases():
    problem = problem_of(with_holes(low_rank(30, 30, 2), 0.4))
    start = problem.leading(3)
    frozen, moving = (
        steps_of(Descent(gamma=gamma, init_scale=0.1, every=100), problem, start, 15)[-1]
        for gamma in (0.0, 0.01)
    )
    left = [float(problem.square(problem.residual(factors))) for factors in (frozen, moving)]
    assert left[1] < 0.5 * left[0]


def test_the_wide_form_that_would_not_fit_is_refused(monkeypatch):
    from corefold.completion import memory

    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**15}))
    problem = problem_of(with_holes(low_rank(30, 30, 2), 0.4))
    with pytest.raises(MemoryError, match=r"wide form's factors would take .* set compressed=True"):
        next(Descent(compressed=False).path(problem, problem.leading(2)))


def test_what_is_held_out_does_not_depend_on_who_holds_the_rows():
    observed, _, dense = sparse(40, 25, 0.6)
    dense = torch.where(dense == 0, torch.nan, dense)
    kept, held = split(observed, 0.3, seed=5)
    assert len(kept) + len(held) == len(observed)
    parts = [split(observed_entries(dense[a:b].numpy()), 0.3, 5, a)[1] for a, b in ((0, 7), (7, 40))]
    pieces = [part.times(torch.eye(25, dtype=torch.float64)) for part in parts]
    assert torch.equal(torch.cat(pieces), held.times(torch.eye(25, dtype=torch.float64)))
    assert not torch.equal(split(observed, 0.3, seed=6)[1].values, held.values)
    assert not len(split(observed, 0.0, seed=5)[1])


def test_entries_are_held_out_evenly():
    observed = observed_entries(np.ones((300, 200)))
    held = split(observed, 0.1, seed=0)[1]
    for counts in (held.starts.diff(), held.column_starts.diff()):
        share = counts.double() / (60000 / len(counts))
        assert abs(float(share.mean()) - 0.1) < 0.005
        expected = (0.1 * 0.9 / (60000 / len(counts))) ** 0.5
        assert 0.8 < float(share.std()) / expected < 1.2


def test_biases_are_the_ridge_regression_on_rows_and_columns():
    observed, shown, _ = sparse(15, 11, 0.7)
    rows, columns = shown.nonzero(as_tuple=True)
    design = torch.zeros(len(rows), 26, dtype=torch.float64)
    design[torch.arange(len(rows)), rows] = design[torch.arange(len(rows)), 15 + columns] = 1
    found = Biases.fit(observed, ROWS)
    shrinkage = torch.tensor([found.shrinkage.row] * 15 + [found.shrinkage.column] * 11, dtype=torch.float64)
    gram = design.mT @ design + shrinkage.diag()
    expected = torch.linalg.solve(gram, design.mT @ (observed.values - observed.values.mean()))
    assert found.mean == pytest.approx(float(observed.values.mean()))
    torch.testing.assert_close(found.row, expected[:15], atol=2e-3, rtol=0)
    torch.testing.assert_close(found.column, expected[15:], atol=2e-3, rtol=0)
    same_matrix(found.at(observed), found.mean + design @ torch.cat([found.row, found.column]), 1e-12)
