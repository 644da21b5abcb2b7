"""What a list of singular values says about rank. All take the values of one matrix, in any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def numerical_rank(values: Float[Tensor, " n"], rtol: float | None = None) -> int:
    """How many singular values exceed `rtol` times the largest; by default rtol is n x machine epsilon."""
    if rtol is None:
        rtol = values.numel() * torch.finfo(values.dtype).eps
    return int((values > rtol * values.max()).sum())


def stable_rank(values: Float[Tensor, " n"]) -> float:
    """`sum(s^2) / max(s)^2`, at most the rank and not moved by tiny values; 0 for a zero matrix."""
    largest = values.max().item()
    return (values / largest).square().sum().item() if largest > 0 else 0.0


def effective_rank(values: Float[Tensor, " n"]) -> float:
    """`exp(entropy(s / sum(s)))` (Roy and Vetterli, EUSIPCO 2007); 0 for a zero matrix."""
    total = values.sum()
    if total <= 0:
        return 0.0
    return torch.special.entr(values / total).sum().exp().item()


def widths_by_energy(spectra: Sequence[Float[Tensor, " _"]], budget: int, widest: Sequence[int]) -> list[int]:
    """Widths of several chains that sum to `budget` at most and follow the most energy, `sum(s^2)`, of all spectra.

    A direction costs 2 of width, one column for each side's random half; every chain gets one direction, unless its
    `widest` is 1.

    Args:
        spectra: singular values of each gradient, largest first.
        budget: the sum of widths, at least `sum(min(2, widest))`.
        widest: the largest width that each chain may have.
    """
    widths = [min(2, limit) for limit in widest]
    offers = sorted(
        (
            (-(float(value) ** 2), chain)
            for chain, (values, limit) in enumerate(zip(spectra, widest, strict=True))
            for value in values[1 : limit // 2]
        ),
    )
    for _, chain in offers[: max(0, budget - sum(widths)) // 2]:
        widths[chain] += 2
    return widths
