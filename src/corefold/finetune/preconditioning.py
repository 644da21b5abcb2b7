"""LoRA-One's preconditioned gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

RIDGE = 1e-6


@torch.no_grad()
def precondition(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Take each gradient of a LoRA pair `(A, B)` in the metric of its partner, as scaled gradient descent does.

    `grad A <- (B^T B + ridge I)^-1 grad A` and `grad B <- grad B (A A^T + ridge I)^-1`, in place (Zhang, Liu, Chen
    2025, LoRA-One, algorithm 1; Tong, Ma, Chi 2021), so that a step changes `B A` alike whatever their scales.

    Args:
        pairs: A (rank, in) and B (out, rank); pairs without gradients are left out.
    """
    for a, b in pairs:
        if a.grad is not None and b.grad is not None:
            eye = RIDGE * torch.eye(len(a), dtype=a.dtype, device=a.device)
            a.grad.copy_(torch.linalg.solve(b.mT @ b + eye, a.grad))
            b.grad.copy_(torch.linalg.solve(a @ a.mT + eye, b.grad, left=False))
