"""The pair core in two bases: few directions, chosen within wide frozen bases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.core.updates.base import Update


@dataclass(frozen=True)
class PairCore(Update):
    r"""Two tall bases around a core of two thin factors:

        dense = left @ P @ Q^T @ right.T,    (Q, P) = factors

    It chooses `rank` directions within bases of `width` columns. `P` starts at zero and `Q` at random orthonormal
    columns, so that an untrained update is exactly zero.

    Attributes:
        left: basis of the output side, (out, width).
        factors: `(Q, P)`, in the order applied, (2, width, rank).
        right: basis of the input side, (in, width).
    """

    left: Float[Tensor, "out width"]
    factors: Float[Tensor, "2 width rank"]
    right: Float[Tensor, "in width"]

    @classmethod
    def at_start(
        cls,
        left: Float[Tensor, "out width"],
        right: Float[Tensor, "in width"],
        rank: int,
        generator: torch.Generator | None = None,
    ) -> PairCore:
        """The update before training: `Q` random with orthonormal columns, `P` zero.

        Args:
            left: basis of the output side.
            right: basis of the input side.
            rank: columns of `P` and `Q`, at most the width.
            generator: source of `Q`, on the CPU.
        """
        # Draw on the CPU in float64, so that a seed means the same start on every device and in every dtype.
        noise = torch.randn(left.shape[1], rank, generator=generator, dtype=torch.float64).to(left)
        q = torch.linalg.qr(noise).Q
        return cls(left, torch.stack([q, torch.zeros_like(q)]), right)

    @property
    def rank(self) -> int:
        """The largest rank that `dense` can have."""
        return self.factors.shape[2]

    def core(self) -> Float[Tensor, "width width"]:
        """`P Q^T`."""
        return self.factors[1] @ self.factors[0].mT

    def dense(self) -> Float[Tensor, "out in"]:
        """The matrix itself."""
        tall, right = self.thin()
        return tall @ right.mT

    def thin(
        self, dtype: torch.dtype | None = None
    ) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "in rank"]]:
        """`(left @ P, right @ Q)`."""
        dtype = dtype or self.left.dtype
        q, p = self.factors.to(dtype).unbind(0)
        return self.left.to(dtype) @ p, self.right.to(dtype) @ q

    def lookup_factors(self) -> tuple[Tensor, Tensor]:
        """`(left @ core, right)`: of a table's `right` only the rows looked up are multiplied."""
        return self.left @ self.core(), self.right
