"""Posterior means against dense formulas, and what they find where there is noise."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from observations import low_rank, relative, sparse, with_holes

from cases import gaussian
from corefold.completion.distributed import RowPartition
from corefold.completion.entries import observed_entries
from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed
from corefold.completion.solvers import ALS, CompletionProblem, Step, variational
from laws import same_matrix

ROWS = RowPartition()
NOISE = 0.2


def whole_of(factors):
    return factors.u * factors.s @ factors.v.mT


def noisy(height, width, rank, share):
    whole = low_rank(height, width, rank)
    holes = with_holes(whole + NOISE * gaussian(height, width, seed=5).numpy(), share)
    return CompletionProblem(observed_entries(holes), ROWS), whole


def dense_sweep(values, shown, step):
    """One coefficient after the other, as Ilin and Raiko write it; before the rotation."""
    _, b = step.factors.halves()
    (height, width), rank, noise = shown.shape, step.factors.rank, step.penalty

    def side(count, shown, values, other, variance, prior):
        mean, own = (
            torch.empty(count, rank, dtype=torch.float64),
            torch.empty(count, rank, dtype=torch.float64),
        )
        for i in range(count):
            seen, doubt = other[shown[i]], variance[shown[i]].sum(0)
            gram = seen.mT @ seen + torch.diag(doubt + noise / prior)
            mean[i] = torch.linalg.solve(gram, seen.mT @ values[i][shown[i]])
            own[i] = noise / gram.diagonal()
        return mean, own

    a, of_a = side(height, shown, values, b, step.spread, noise / step.ridge)
    prior = (b.square() + step.spread).mean(0)
    b, of_b = side(width, shown.mT, values.mT, a, of_a, prior)
    doubt = of_a @ of_b.mT + a.square() @ of_b.mT + of_a @ b.square().mT
    left = (values - a @ b.mT).square() + doubt
    noise = float(left[shown].mean())
    divergence = 0.0
    for mean, variance in ((a, of_a), (b, of_b)):
        p = (mean.square() + variance).mean(0)
        divergence += float(((p / variance).log() + (mean.square() + variance) / p - 1).sum()) / 2
    return a, of_a, b, of_b, noise, int(shown.sum()) / 2 * np.log(noise) + divergence


@pytest.mark.parametrize(("shape", "rank"), [((17, 10), 3), ((9, 16), 2), ((13, 13), 1)])
def test_a_sweep_is_the_dense_formula(shape, rank):
    observed, shown, dense = sparse(*shape, 0.6)
    problem = CompletionProblem(observed, ROWS)
    spread = gaussian(shape[1], rank, seed=8).square() / 10
    factors = LowRank.product(gaussian(shape[0], rank, seed=3), gaussian(shape[1], rank, seed=4), ROWS)
    step = Step(factors, 0.3, 0.0, 0.0, gaussian(1, rank, seed=7)[0].square() + 0.1, spread)
    got = variational.sweep(problem, step)
    a, of_a, b, of_b, noise, energy = dense_sweep(dense, shown, step)
    same_matrix(whole_of(got.factors), a @ b.mT, 1e-10)
    assert got.penalty == pytest.approx(noise, rel=1e-10)
    assert got.objective == pytest.approx(energy, rel=1e-10)
    assert got.error == pytest.approx(float((dense - a @ b.mT)[shown].square().mean().sqrt()), rel=1e-10)
    # Turned with the columns, variances keep their sum over what a balanced pair of halves leaves alone.
    left, right = got.factors.halves()
    turn = torch.linalg.lstsq(b, right).solution
    same_matrix(got.spread, of_b @ turn.square(), 1e-8)
    prior = (left.square() + of_a @ torch.linalg.inv(turn).mT.square()).mean(0)
    same_matrix(got.ridge, noise / prior, 1e-8)


def test_the_free_energy_goes_down():
    problem, _ = noisy(60, 45, 1, 0.3)  # At rank 1 there is nothing to turn.
    step = variational.begin(problem, problem.leading(1))
    energies = [step.objective for step in islice(variational.walk(problem, step), 20)]
    assert all(after <= before + 1e-9 for before, after in pairwise(energies))
    assert energies[-1] < energies[0] - 1


def test_noise_and_rank_are_found():
    problem, whole = noisy(200, 150, 4, 0.12)
    for step in islice(variational.walk(problem, variational.begin(problem, problem.leading(12))), 200):
        found = step
    assert found.factors.rank == 4
    assert found.penalty**0.5 == pytest.approx(NOISE, rel=0.1)
    told = problem.leading(4)
    for step in islice(ALS().path(problem, told), 50):
        told = step.factors
    assert relative(whole_of(found.factors).numpy(), whole) < 0.95 * relative(whole_of(told).numpy(), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_noise_a_sweep_keeps_what_is_exact(dtype):
    whole = torch.from_numpy(low_rank(50, 40, 3)).to(dtype)
    problem = CompletionProblem(
        observed_entries(np.where(np.isnan(with_holes(whole, 0.5)), np.nan, whole)), ROWS
    )
    u, s, vh = torch.linalg.svd(whole)
    exact = LowRank(u[:, :3], s[:3], vh[:3].mT)
    for step in islice(variational.walk(problem, variational.begin(problem, exact)), 5):
        found = step
    assert found.factors.s.dtype == dtype
    same_matrix(whole_of(found.factors), whole, 1e-10 if dtype == torch.float64 else 1e-4)


def test_a_direction_of_nothing_goes_out():
    problem, _ = noisy(40, 30, 2, 0.5)
    a, b = problem.leading(2).halves()
    factors = LowRank.product(torch.cat([a, 0 * a], 1), torch.cat([b, gaussian(30, 2)], 1), ROWS)
    step = variational.sweep(problem, variational.begin(problem, factors))
    assert step.factors.rank == 2
    assert all(torch.isfinite(part).all() for part in (step.factors.u, step.spread, step.ridge))


def test_a_turn_in_float32_keeps_what_is_known_of_small_directions():
    size, height, width = torch.tensor([1, 0.5, 0.005]), 30, 100_000
    parts = [gaussian(n, 3, seed=seed) * size for seed, n in ((3, height), (5, width))]
    variances = [gaussian(n, 3, seed=seed).square() + 0.1 for seed, n in ((4, height), (6, width))]
    found = []
    for dtype in (torch.float64, torch.float32):
        empty = torch.zeros(0, dtype=torch.int64)
        problem = CompletionProblem(
            Observed.of(empty, empty, torch.zeros(0, dtype=dtype), (height, width)), ROWS
        )
        (a, b), (of_a, of_b) = ([part.to(dtype) for part in pair] for pair in (parts, variances))
        found.append(variational._rotated(problem, a, of_a, b, of_b))
    (_, spread, square), (_, low, low_square) = found
    assert spread.amin(0).gt(1e-4).all()
    torch.testing.assert_close(low, spread.float(), rtol=1e-3, atol=0)
    torch.testing.assert_close(low_square, square.float(), rtol=1e-3, atol=0)
