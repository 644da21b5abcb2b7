r"""Gradient descent on a deep factorization, the problem that the theorem is about:

    minimise 1/2 ||W_L ... W_1 - target||_F^2 + decay/2 sum_l ||W_l||_F^2

from factors that start at init_scale times a matrix with orthonormal rows or columns. Factors are listed in the order
applied, `factors[0]` is W_1. Source: Yaras et al. 2024 (arXiv 2406.04112), section 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor


def orthogonal_start(
    out: int, in_: int, depth: int, init_scale: float, generator: torch.Generator | None = None
) -> list[Float[Tensor, "_ _"]]:
    """`depth` float64 factors of an (out, in) matrix, each `init_scale` times random orthonormal columns or rows.

    The inner sides are max(out, in), so that only the first or the last factor is not square.

    Raises:
        ValueError: a side, depth or init_scale that is not positive.
    """
    if min(out, in_, depth) < 1 or init_scale <= 0:
        raise ValueError(
            "out, in_ and depth must be at least 1 and init_scale positive; "
            f"got {out}, {in_}, {depth} and {init_scale}"
        )
    sides = [in_, *[max(out, in_)] * (depth - 1), out]
    factors = []
    for columns, rows in pairwise(sides):
        noise = torch.randn(max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(noise)
        q = q * r.diagonal().sign()  # without these signs q would not be uniform over the orthogonal matrices
        factors.append(init_scale * (q if rows >= columns else q.mT))
    return factors


def product(factors: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "out in"]:
    """`W_L ... W_2 W_1`."""
    return reduce(lambda done, factor: factor @ done, factors)


def loss(factors: Sequence[Float[Tensor, "_ _"]], target: Float[Tensor, "out in"]) -> float:
    """`1/2 ||W_L ... W_1 - target||_F^2`, without the term of the decay."""
    return 0.5 * (product(factors) - target).square().sum().item()


def descend(
    factors: Sequence[Float[Tensor, "_ _"]], target: Float[Tensor, "out in"], lr: float, decay: float = 0.0
) -> Iterator[list[Float[Tensor, "_ _"]]]:
    """The factors at step 0, 1, 2, ... of gradient descent, without end.

    The wide factors and the small ones of `Blocks.compress` descend by this same function.

    Args:
        factors: the factors at step 0, which stay as they are.
        target: the matrix to approximate.
        lr: the learning rate eta.
        decay: the weight decay lambda.
    """
    current = [factor.clone() for factor in factors]
    while True:
        yield current
        current = [
            (1 - lr * decay) * factor - lr * gradient
            for factor, gradient in zip(current, _gradients(current, target), strict=True)
        ]


def _gradients(factors: Sequence[Tensor], target: Tensor) -> list[Tensor]:
    """`(W_L ... W_{l+1})^T (W_L ... W_1 - target) (W_{l-1} ... W_1)^T` for each l."""
    *partial_products, whole = accumulate(factors, lambda done, factor: factor @ done)
    residual = whole - target  # pulled back through the factors, from the last to the second
    gradients = []
    for factor, before in zip(reversed(factors[1:]), reversed(partial_products), strict=True):
        gradients.append(residual @ before.mT)
        residual = factor.mT @ residual
    return [residual, *reversed(gradients)]
