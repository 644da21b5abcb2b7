"""What a list of singular values says about rank. All take the values of one matrix, in any order."""

from __future__ import annotations

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
