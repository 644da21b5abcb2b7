"""A low-rank matrix as its singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.distributed import RowPartition
from corefold.completion.observed import Observed

NEGLIGIBLE_SHARE = 1e-6  # share of the largest singular value


@dataclass(frozen=True)
class LowRank:
    """`u diag(s) v^T`: orthonormal columns and singular values, largest first.

    Over several processes `u` holds the rows of this one; `s` and `v` are the same in all.
    """

    u: Float[Tensor, "height rank"]
    s: Float[Tensor, " rank"]
    v: Float[Tensor, "width rank"]

    @classmethod
    def product(
        cls, a: Float[Tensor, "height k"], b: Float[Tensor, "width k"], partition: RowPartition
    ) -> LowRank:
        """`a b^T`, from two QRs and a small SVD."""
        q, r = partition.qr(a)
        q_right, r_right = torch.linalg.qr(b)
        # The signs of an SVD are arbitrary, so all processes take those of the first one.
        svd = torch.linalg.svd(r @ r_right.mT, full_matrices=False)
        u, s, vh = (partition.broadcast(part) for part in svd)
        return cls(q @ u, s, q_right @ vh.mT)

    @classmethod
    def leading(
        cls,
        observed: Observed,
        rank: int,
        partition: RowPartition,
        generator: torch.Generator | None,
        power: int = 2,
    ) -> LowRank:
        """The leading part of the sparse matrix of the observed values, zero elsewhere, by a randomised SVD."""
        # Drawn on the CPU in float64, so that a seed means the same start everywhere.
        noise = torch.randn(observed.shape[1], rank, generator=generator, dtype=torch.float64)
        right = noise.to(observed.values)
        for _ in range(power):
            left, _ = partition.qr(observed.times(right))
            right, _ = torch.linalg.qr(partition.sum(observed.transposed_times(left)))
        left, _ = partition.qr(observed.times(right))
        return cls.product(left, partition.sum(observed.transposed_times(left)), partition)

    @property
    def rank(self) -> int:
        return len(self.s)

    def halves(self) -> tuple[Float[Tensor, "height rank"], Float[Tensor, "width rank"]]:
        """`(a, b)` with `a b^T` this matrix, in balance: `a^T a = b^T b = diag(s)`."""
        root = self.s.sqrt()
        return self.u * root, self.v * root

    def keep(self, rank: int) -> LowRank:
        """Its leading directions."""
        return LowRank(self.u[:, :rank], self.s[:rank], self.v[:, :rank])

    def above(self, share: float = NEGLIGIBLE_SHARE) -> LowRank:
        """The directions whose singular value exceeds this share of the largest one; at least one direction."""
        return self.keep(max(1, int((self.s > share * self.s[0]).sum())))

    def rank_within(self, norm: float) -> int:
        """The fewest directions, at least one, without which at most this Frobenius norm is lost."""
        # lost[k] is the square of the loss of keeping k directions.
        lost = self.s.square().flip(0).cumsum(0).flip(0)
        return max(1, int((lost > norm**2).sum()))

    def at(self, observed: Observed) -> Float[Tensor, " entries"]:
        """Its values at the observed places."""
        return observed.products(self.u * self.s, self.v)
