"""The deep core in two bases: the factorization of the paper.

Source: Yaras, Wang, Balzano, Qu, "Compressible Dynamics in Deep Overparameterized Low-Rank Learning & Adaptation",
ICML 2024 (arXiv 2406.04112), sections 2 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.core.updates.base import Update


@dataclass(frozen=True)
class DeepCore(Update):
    r"""Two tall bases around a small, square core of several factors:

        dense = left @ (W_L ... W_2 W_1 - start * I) @ right.T

    with `W_1 = factors[0]`, the factor applied first. Every factor starts at `init_scale * I` and the bases are
    orthonormal, so with `start = init_scale ** depth` an untrained core is exactly zero. The paper leaves `start` at 0
    because its init_scale of 1e-3 makes that product 1e-9.

    Attributes:
        left: basis of the output side, (out, width).
        factors: the core's factors in the order applied, (depth, width, width).
        right: basis of the input side, (in, width).
        start: what the product of the factors was at the start; the core's diagonal is less by it.
    """

    left: Float[Tensor, "out width"]
    factors: Float[Tensor, "depth width width"]
    right: Float[Tensor, "in width"]
    start: float = 0.0

    @classmethod
    def at_start(
        cls,
        left: Float[Tensor, "out width"],
        right: Float[Tensor, "in width"],
        depth: int,
        init_scale: float,
    ) -> DeepCore:
        """The update before training: all `depth` factors `init_scale * I`, the update exactly zero."""
        eye = torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
        factors = (init_scale * eye).repeat(depth, 1, 1)
        return cls(left, factors, right, start_product(init_scale, depth, left.dtype))

    @classmethod
    def from_svd(
        cls,
        u: Float[Tensor, "out width"],
        s: Float[Tensor, " width"],
        v: Float[Tensor, "in width"],
        depth: int,
        init_scale: float,
    ) -> DeepCore:
        """The update equal to `u diag(s) v^T` (s >= 0), with orthonormal bases and `depth` equal factors."""
        start = start_product(init_scale, depth, u.dtype)
        factor = (s.double() + start).pow(1 / depth).diag().to(u)
        return cls(u, factor.repeat(depth, 1, 1), v, start)

    @property
    def rank(self) -> int:
        """The largest rank that `dense` can have."""
        return self.left.shape[1]

    def core(self) -> Float[Tensor, "width width"]:
        """`W_L ... W_2 W_1 - start * I`."""
        product = reduce(lambda done, factor: factor @ done, self.factors.unbind(0))
        if not self.start:
            return product
        eye = torch.eye(product.shape[0], dtype=product.dtype, device=product.device)
        return torch.sub(product, eye, alpha=self.start)

    def dense(self) -> Float[Tensor, "out in"]:
        """The matrix itself."""
        return self.left @ self.core() @ self.right.mT

    def thin(
        self, dtype: torch.dtype | None = None
    ) -> tuple[Float[Tensor, "out width"], Float[Tensor, "in width"]]:
        """`(left @ core, right)`."""
        dtype = dtype or self.left.dtype
        # The core in its own dtype: rounded otherwise, it would not cancel its start exactly.
        return self.left.to(dtype) @ self.core().to(dtype), self.right.to(dtype)

    def map_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The bases and the core apart: with frozen bases a step keeps `x @ right` only, and not the input `x`."""
        return self.left, self.core(), self.right


def start_product(init_scale: float, depth: int, dtype: torch.dtype) -> float:
    """`init_scale ** depth`, rounded in `dtype` step by step, as a product of the factors rounds it."""
    scale = torch.tensor(init_scale, dtype=dtype, device="cpu")
    return reduce(lambda done, factor: factor * done, [scale] * depth).item()
