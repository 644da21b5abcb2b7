"""The theorem that corefold stands on: a small deep core follows wide deep factorization exactly.

Yaras, Wang, Balzano, Qu 2024 (arXiv 2406.04112), theorem 2.1, with factors of rank 2r as in its proof.
"""

from __future__ import annotations

import math
from functools import reduce

import pytest
import torch
from torch import Tensor

from cases import frame, gaussian, matrix_with_spectrum
from corefold.core import DeepCore, bases_from_gradient, wide_bases
from laws import same_matrix

D, STEPS, ETA, CHECK_EVERY = 40, 300, 0.02, 50
SPECTRA = {2: [3.0, 2.0], 3: [3.0, 2.2, 1.4]}


def _product(factors: list[Tensor]) -> Tensor:
    return reduce(
        lambda done, factor: factor @ done, factors, torch.eye(factors[0].shape[1], dtype=torch.float64)
    )


def _descend_wide(factors: list[Tensor], target: Tensor, decay: float) -> list[Tensor]:
    """One step of gradient descent on `1/2 norm(W_L ... W_1 - target)^2` with weight decay, written out."""
    residual = _product(factors) - target
    moved = []
    for layer, factor in enumerate(factors):
        before, after = factors[:layer], factors[layer + 1 :]
        gradient = residual
        for later in reversed(after):
            gradient = later.mT @ gradient
        for earlier in before:
            gradient = gradient @ earlier.mT
        moved.append((1 - ETA * decay) * factor - ETA * gradient)
    return moved


def _descend_core(core: DeepCore, target: Tensor, decay: float) -> DeepCore:
    """The same step on the core alone, by autograd through the update."""
    factors = core.factors.detach().requires_grad_()
    trained = DeepCore(core.left, factors, core.right)
    loss = 0.5 * (trained.dense() - target).square().sum()
    (gradient,) = torch.autograd.grad(loss, factors)
    return DeepCore(core.left, ((1 - ETA * decay) * factors - ETA * gradient).detach(), core.right)


def _descend_rest(rho: list[float], decay: float) -> list[float]:
    """`rho_l <- rho_l (1 - eta decay - eta prod_{k != l} rho_k^2)`."""
    return [
        r * (1 - ETA * decay - ETA * math.prod(other**2 for k, other in enumerate(rho) if k != layer))
        for layer, r in enumerate(rho)
    ]


def _start(depth: int) -> tuple[list[float], list[Tensor], Tensor]:
    """A different scale for each wide factor, the factors, and the orthogonal map they multiply to."""
    scales = [0.35 + 0.05 * layer for layer in range(depth)]
    rotations = [frame(D, D, 10 + layer) for layer in range(depth)]
    return (
        scales,
        [scale * rotation for scale, rotation in zip(scales, rotations, strict=True)],
        _product(rotations),
    )


def _small_core(left: Tensor, right: Tensor, scales: list[float]) -> DeepCore:
    eye = torch.eye(left.shape[1], dtype=torch.float64)
    return DeepCore(left, torch.stack([scale * eye for scale in scales]), right)


def _complement(basis: Tensor) -> Tensor:
    return torch.linalg.svd(basis, full_matrices=True).U[:, basis.shape[1] :]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("r", [2, 3])
def test_the_wide_path_is_the_core_s_path_and_a_decaying_rest(r, depth, decay):
    target = matrix_with_spectrum(D, D, SPECTRA[r])
    u, _, vh = torch.linalg.svd(target)
    scales, wide, q = _start(depth)
    left, right = wide_bases(u[:, :r], vh[:r].mT, q)
    rest_right = _complement(right)
    rest = (q @ rest_right) @ rest_right.mT  # It is orthonormal on its d - 2r dimensions.
    frames = [torch.cat([right, rest_right], 1)]  # V_1, then U_l = V_{l+1}, fixed by the start
    for factor, scale in zip(wide, scales, strict=True):
        frames.append(factor @ frames[-1] / scale)

    core, rho = _small_core(left, right, scales), scales
    for step in range(1, STEPS + 1):
        wide, core = _descend_wide(wide, target, decay), _descend_core(core, target, decay)
        rho = _descend_rest(rho, decay)
        if step % CHECK_EVERY:
            continue
        gap = _product(wide) - core.dense()
        same_matrix(_product(wide), core.dense() + math.prod(rho) * rest, 1e-10)
        assert gap.norm().item() == pytest.approx(math.sqrt(D - 2 * r) * math.prod(rho), abs=1e-10)
        for layer, factor in enumerate(wide):
            block = torch.block_diag(
                core.factors[layer], rho[layer] * torch.eye(D - 2 * r, dtype=torch.float64)
            )
            same_matrix(frames[layer + 1].mT @ factor @ frames[layer], block, 1e-10)

    # The path is a real one: it went from far off to the target, up to what decay holds back and the rest.
    far, near = (target - _product(_start(depth)[1])).norm(), (target - core.dense()).norm()
    assert near < (0.05 if decay == 0 else 0.3) * far


@pytest.mark.parametrize("depth", [2, 3])
def test_bases_from_a_gradient_follow_a_wide_path_too(depth):
    r, width = 3, 6
    target = matrix_with_spectrum(D, D, SPECTRA[r])
    left, right = bases_from_gradient(-target, width, generator=torch.Generator().manual_seed(0))
    # A wide start whose product maps right to left: random factors, the last one completed to fit.
    scales, wide, q = _start(depth)
    fitted = left @ right.mT + _complement(left) @ _complement(right).mT
    wide[-1] = scales[-1] * fitted @ q.mT @ (wide[-1] / scales[-1])
    core, rho = _small_core(left, right, scales), scales
    for _ in range(STEPS):
        wide, core = _descend_wide(wide, target, 0.0), _descend_core(core, target, 0.0)
        rho = _descend_rest(rho, 0.0)
    rest = _complement(left) @ _complement(right).mT
    same_matrix(_product(wide), core.dense() + math.prod(rho) * rest, 1e-10)


@pytest.mark.parametrize("spoil", ["left", "right", "pairing"])
def test_other_bases_leave_the_wide_path(spoil):
    r, depth = 3, 3
    target = matrix_with_spectrum(D, D, SPECTRA[r])
    u, _, vh = torch.linalg.svd(target)
    scales, wide, q = _start(depth)
    left, right = wide_bases(u[:, :r], vh[:r].mT, q)
    if spoil == "left":
        left = frame(D, 2 * r, 50)
    elif spoil == "right":
        right = frame(D, 2 * r, 50)
    else:
        left = left @ torch.linalg.qr(gaussian(2 * r, 2 * r, seed=50)).Q
    core, rho, worst = _small_core(left, right, scales), scales, 0.0
    for _ in range(STEPS):
        wide, core = _descend_wide(wide, target, 0.0), _descend_core(core, target, 0.0)
        rho = _descend_rest(rho, 0.0)
        gap = (_product(wide) - core.dense()).norm().item()
        worst = max(worst, abs(gap - math.sqrt(D - 2 * r) * math.prod(rho)))
    assert worst > 0.1
