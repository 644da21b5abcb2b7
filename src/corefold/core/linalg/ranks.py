"""Measures of rank. Each takes the singular values of one matrix, in any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.core.linalg.svd import significant


def numerical_rank(values: Float[Tensor, " n"], rtol: float | None = None) -> int:
    """How many singular values exceed `rtol` times the largest; by default those that are `significant`."""
    if rtol is None:
        return significant(values, values.numel())
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
    """Widths of the cores of several layers, at most `budget` in sum, that follow the most energy `sum(s^2)` of all.

    A direction costs a width of 2, because each side has a random column for it. Every layer gets one direction,
    unless its `widest` is 1.

    Args:
        spectra: singular values of each layer's gradient, largest first.
        budget: the sum of the widths, at least `sum(min(2, widest))`.
        widest: the largest width that each layer may have.
    """
    widths = [min(2, limit) for limit in widest]
    directions = sorted(
        (-(float(value) ** 2), layer)
        for layer, (values, limit) in enumerate(zip(spectra, widest, strict=True))
        for value in values[1 : limit // 2]
    )
    for _, layer in directions[: max(0, budget - sum(widths)) // 2]:
        widths[layer] += 2
    return widths
