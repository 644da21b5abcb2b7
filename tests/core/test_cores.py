"""Batched cores against each chain's own."""

from __future__ import annotations

import pytest
import torch

from cases import gaussian
from corefold.core import FactorChain, batched_cores


def several(depth: int, how_many: int = 3, width: int = 4) -> list[torch.Tensor]:
    return [gaussian(depth, width, width, seed=k).requires_grad_() for k in range(how_many)]


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("start", [0.0, 0.3])
def test_they_and_their_gradients_are_each_chain_s_own(depth, start):
    factors = several(depth)
    cores = batched_cores(factors, start)
    own = [FactorChain(gaussian(6, 4), f, gaussian(5, 4), start).core() for f in factors]
    for core, expected in zip(cores, own, strict=True):
        torch.testing.assert_close(core, expected, rtol=1e-14, atol=1e-14)
    assert torch.autograd.gradcheck(lambda *f: batched_cores(f, start), factors)


def test_a_chain_whose_core_is_not_used_gets_no_gradient():
    factors = several(3)
    cores = batched_cores(factors, 0.3)
    (cores[0] * 2 + cores[2].square()).sum().backward()
    assert factors[1].grad is None
    chains = [FactorChain(gaussian(6, 4), f.detach().requires_grad_(), gaussian(5, 4), 0.3) for f in factors]
    (chains[0].core() * 2 + chains[2].core().square()).sum().backward()
    for place in (0, 2):
        torch.testing.assert_close(factors[place].grad, chains[place].factors.grad, rtol=1e-13, atol=1e-13)


def test_a_gradient_of_the_gradient_is_refused():
    factors = several(2)
    total = sum(core.square().sum() for core in batched_cores(factors, 0.0))
    gradient = torch.autograd.grad(total, factors[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
