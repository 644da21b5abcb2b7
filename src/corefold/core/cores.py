"""The cores of many chains in one batched product."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def batched_cores(
    factors: Sequence[Float[Tensor, "depth width width"]], start: float
) -> tuple[Float[Tensor, "width width"], ...]:
    """`FactorChain.core` of each of several chains of one depth, width and start.

    A training step meets so many small products cold, between large ones, that they cost it far more than their
    arithmetic. A chain whose core is not used gets no gradient.

    Raises:
        RuntimeError: in the backward pass, if a gradient of this gradient is asked for.
    """
    return _BatchedCores.apply(start, *factors)  # type: ignore[return-value]


class _BatchedCores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, start: float, *factors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        stacked = torch.stack(factors)
        ctx.save_for_backward(stacked)
        cores = reduce(lambda done, factor: torch.bmm(factor, done), stacked.unbind(1))
        cores = cores - start * torch.eye(cores.shape[-1], dtype=cores.dtype, device=cores.device)
        return cores.unbind()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        (stacked,) = ctx.saved_tensors
        used = [place for place, grad in enumerate(grads) if grad is not None]
        if not used:
            return None, *grads
        if len(used) < len(grads):
            stacked = stacked[used]
        grad = torch.stack([grad for grad in grads if grad is not None])
        # d W_k = (W_L ... W_k+1)^T grad (W_k-1 ... W_1)^T
        factors = stacked.unbind(1)
        before = [factors[0]]
        for factor in factors[1:-1]:
            before.append(torch.bmm(factor, before[-1]))
        found = torch.empty_like(stacked)
        for k in range(len(factors) - 1, 0, -1):
            found[:, k] = torch.bmm(grad, before[k - 1].mT)
            grad = torch.bmm(factors[k].mT, grad)
        found[:, 0] = grad
        results: list[Tensor | None] = [None] * len(grads)
        for place, one in zip(used, found.unbind(), strict=True):
            results[place] = one
        return None, *results
