from __future__ import annotations

from itertools import islice, pairwise

import pytest
import torch

from cases import gaussian, generator
from corefold.dynamics import descend, loss, orthogonal_start, product
from laws import orthonormal_columns, same_matrix

SIDES = [(6, 6), (7, 4), (5, 8)]


def at(path, step):
    return next(islice(path, step, None))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(("out", "in_"), SIDES)
def test_start_is_init_scale_times_orthonormal_of_the_wide_shapes(out, in_, depth):
    factors = orthogonal_start(out, in_, depth, 0.2, generator())
    assert product(factors).shape == (out, in_)
    assert all(max(out, in_) in factor.shape for factor in factors)
    for factor in factors:
        tall = factor if factor.shape[0] >= factor.shape[1] else factor.mT
        orthonormal_columns(tall / 0.2, 1e-14)
    assert len({factor.flatten()[0].item() for factor in factors}) == depth
    again = orthogonal_start(out, in_, depth, 0.2, generator())
    assert all(torch.equal(*pair) for pair in zip(factors, again, strict=True))


@pytest.mark.parametrize("wrong", [{"out": 0}, {"depth": 0}, {"init_scale": 0.0}])
def test_start_refuses_what_is_not_positive(wrong):
    with pytest.raises(ValueError, match="must be at least 1 and init_scale positive; got"):
        orthogonal_start(**{"out": 3, "in_": 3, "depth": 2, "init_scale": 0.1, **wrong})


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(("out", "in_"), SIDES)
def test_a_step_is_down_the_gradient_that_autograd_finds(out, in_, depth, decay):
    sides = [in_, *range(4, 3 + depth), out]  # factors in general position, none square or alike
    start = [gaussian(b, a, seed=layer) for layer, (a, b) in enumerate(pairwise(sides))]
    target = gaussian(out, in_, seed=9)
    leaves = [factor.clone().requires_grad_() for factor in start]
    whole = leaves[0]
    for leaf in leaves[1:]:
        whole = leaf @ whole
    objective = 0.5 * (whole - target).square().sum()
    assert loss(start, target) == pytest.approx(objective.item(), rel=1e-14)
    objective = objective + 0.5 * decay * sum(leaf.square().sum() for leaf in leaves)
    gradients = torch.autograd.grad(objective, leaves)
    for moved, leaf, gradient in zip(
        at(descend(start, target, 0.01, decay), 1), start, gradients, strict=True
    ):
        same_matrix(moved, leaf - 0.01 * gradient, 1e-13)


def test_a_path_starts_at_its_start_and_leaves_it_alone():
    start = orthogonal_start(5, 4, 3, 0.5, generator())
    kept = [factor.clone() for factor in start]
    first, *_, last = islice(descend(start, gaussian(5, 4), 0.1), 20)
    assert all(torch.equal(a, b) and torch.equal(b, c) for a, b, c in zip(first, start, kept, strict=True))
    assert not torch.allclose(last[0], kept[0])
