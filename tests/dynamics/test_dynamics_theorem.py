"""The prediction against the dense run in float64: general position, square and rectangular, any rank."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from cases import frame, gaussian, generator, matrix_with_spectrum
from corefold.core import DeepCore, wide_bases
from corefold.dynamics import descend, deviation, invariant_blocks, leading_directions, predict, product
from corefold.dynamics import orthogonal_start as start_of_one_scale
from laws import orthonormal_columns, same_matrix, spans_same_space

LR, STEPS = 0.02, 300
SHAPES = [(24, 24), (25, 25), (26, 19), (19, 26), (24, 22)]
SPECTRA = {0: [], 1: [2.5], 3: [3.0, 2.2, 1.4], 12: [3.0 * 0.9**i for i in range(12)]}


def problem(out, in_, depth, rank=3):
    """A start with a scale of its own for each factor, and a target of this rank."""
    start = start_of_one_scale(out, in_, depth, 0.6, generator(5))
    start = [(1 + 0.1 * layer) * factor for layer, factor in enumerate(start)]
    return start, matrix_with_spectrum(out, in_, SPECTRA[rank])


def at(path, step):
    return next(islice(path, step, None))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_the_dense_run_is_as_predicted(out, in_, depth, decay):
    start, target = problem(out, in_, depth)
    blocks = invariant_blocks(start, *leading_directions(target))
    runs = zip(descend(start, target, LR, decay), predict(blocks, target, LR, decay), strict=True)
    for wide, state in islice(runs, 0, STEPS + 1, 60):
        found = deviation(blocks, state, wide, target)
        assert max(vars(found).values()) < 1e-12, found
        # The product and the gap once more, from their formulas.
        small = blocks.core[-1] @ product(state.core) @ blocks.core[0].mT
        rest = math.prod(state.rest) * blocks.rest[-1] @ blocks.rest[0].mT
        same_matrix(product(wide), small + rest, 1e-12)
        dimension = min(out, in_) - 6
        assert state.gap(dimension) == pytest.approx((product(wide) - small).norm().item(), abs=1e-12)
    assert (product(wide) - target).norm() < 0.4 * target.norm(), "the run went nowhere"
    assert math.prod(state.rest) < 0.8 * math.prod(blocks.scales), "the rest stayed"


@pytest.mark.parametrize("rank", [0, 1, 12])
@pytest.mark.parametrize(("out", "in_"), [(24, 24), (26, 19)])
def test_any_rank_from_none_to_one_that_leaves_no_rest(out, in_, rank):
    start, target = problem(out, in_, 3, rank)
    u, v = leading_directions(target, rank)
    blocks = invariant_blocks(start, u, v)
    assert blocks.rest_dimension == max(0, min(out, in_) - 2 * rank)
    wide, state = at(descend(start, target, LR, 0.1), 150), at(predict(blocks, target, LR, 0.1), 150)
    found = deviation(blocks, state, wide, target + (rank == 0))
    assert max(vars(found).values()) < 1e-12, found


@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_blocks_are_orthonormal_and_of_the_dimensions_told(out, in_):
    start, target = problem(out, in_, 3)
    blocks = invariant_blocks(start, *leading_directions(target))
    larger = min(9, 6 + abs(out - in_))
    dimensions = [core.shape[1] for core in blocks.core]
    expected = [6, larger, larger, larger] if out > in_ else [larger, larger, larger, 6]
    assert dimensions == (expected if out != in_ else [6] * 4)
    for core, rest in zip(blocks.core, blocks.rest, strict=True):
        assert rest.shape[1] == min(out, in_) - 6
        orthonormal_columns(torch.cat([core, rest], 1), 1e-13)


def test_idle_directions_only_decay():
    start, target = problem(26, 19, 3)
    blocks = invariant_blocks(start, *leading_directions(target))
    last = at(descend(start, target, LR, 0.1), 100)[1]
    known = torch.cat([blocks.core[1], blocks.rest[1]], 1)
    idle = torch.linalg.qr(known, mode="complete").Q[:, known.shape[1] :]
    assert idle.shape[1] == 26 - 19 - 3
    same_matrix(last @ idle, (1 - LR * 0.1) ** 100 * start[1] @ idle, 1e-12)


def test_equal_scales_give_the_recursion_of_one_rho():
    start = start_of_one_scale(20, 20, 3, 0.4, generator())
    target = matrix_with_spectrum(20, 20, SPECTRA[3])
    rho = 0.4
    for state in islice(predict(invariant_blocks(start, *leading_directions(target)), target, LR, 0.1), 50):
        assert state.rest == pytest.approx([rho] * 3, rel=1e-12)
        rho *= 1 - LR * 0.1 - LR * rho**4


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_square_core_is_the_factor_chain_between_the_closed_form_bases(decay):
    start = start_of_one_scale(24, 24, 3, 0.4, generator(5))
    target = matrix_with_spectrum(24, 24, SPECTRA[3])
    u, v = leading_directions(target)
    blocks = invariant_blocks(start, u, v)
    left, right = wide_bases(u, v, product(blocks.isometries))
    chain = DeepCore.at_start(left, right, 3, 0.4)
    factors = list(chain.factors.unbind(0))
    for small, state in islice(
        zip(
            descend(factors, left.mT @ target @ right, LR, decay),
            predict(blocks, target, LR, decay),
            strict=True,
        ),
        0,
        STEPS,
        60,
    ):
        same_matrix(blocks.expand(state.core), left @ product(small) @ right.mT, 1e-12)


@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_the_first_gradient_shows_the_blocks_with_the_start_s_product_still_in_it(out, in_):
    start, target = problem(out, in_, 3)
    u, v = leading_directions(product(start) - target, 3)
    # Its directions are not the target's, but with their images they span the same.
    assert (target - u @ (u.mT @ target)).norm() > 1e-2 * target.norm()
    blocks, exact = invariant_blocks(start, u, v), invariant_blocks(start, *leading_directions(target))
    for found, expected in zip(blocks.core, exact.core, strict=True):
        spans_same_space(found, expected, 1e-10)
    wide, state = at(descend(start, target, LR), 200), at(predict(blocks, target, LR), 200)
    assert max(vars(deviation(blocks, state, wide, target)).values()) < 1e-12


def test_directions_beyond_the_target_s_make_the_core_wider_and_nothing_else():
    start, target = problem(24, 24, 3)
    u, v = leading_directions(target)
    more = [torch.linalg.qr(torch.cat([side, gaussian(24, 2, seed=3)], 1)).Q for side in (u, v)]
    blocks = invariant_blocks(start, *more)
    assert blocks.rest_dimension == 24 - 10
    wide, state = at(descend(start, target, LR), 200), at(predict(blocks, target, LR), 200)
    assert max(vars(deviation(blocks, state, wide, target)).values()) < 1e-12


@pytest.mark.parametrize("spoil", ["u", "v", "too few"])
def test_other_directions_fail(spoil):
    start, target = problem(24, 24, 3)
    u, v = leading_directions(target)
    if spoil == "too few":
        u, v = u[:, :2], v[:, :2]
    else:
        u, v = (frame(24, 3, 8) if side == spoil else held for side, held in (("u", u), ("v", v)))
    blocks = invariant_blocks(start, u, v)
    wide, state = at(descend(start, target, LR), 200), at(predict(blocks, target, LR), 200)
    found = deviation(blocks, state, wide, target)
    assert min(found.product, found.factors, found.leak, found.gap) > 1e-2, found


def test_a_start_that_is_not_orthogonal_fails():
    _, target = problem(24, 24, 3)
    start = [0.35 * gaussian(24, 24, seed=layer) / 24**0.5 for layer in range(3)]
    blocks = invariant_blocks(start, *leading_directions(target))
    wide, state = at(descend(start, target, LR), 200), at(predict(blocks, target, LR), 200)
    found = deviation(blocks, state, wide, target)
    assert min(found.product, found.factors, found.rest) > 1e-2, found
