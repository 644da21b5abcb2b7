"""A low-rank matrix as its singular value decomposition, and how it is made of tall factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from corefold.completion.observed import Observed
from corefold.completion.distributed import Rows


@dataclass(frozen=True)
class LowRank:
    """`u diag(s) v^T`: orthonormal columns and singular values, largest first.

    Over several processes `u` holds the rows of this one; `s` and `v` are the same in all.
    """

    u: Float[Tensor, "height rank"]
    s: Float[Tensor, " rank"]
    v: Float[Tensor, "width rank"]

    @classmethod
    def product(cls, a: Float[Tensor, "height k"], b: Float[Tensor, "width k"], rows: Rows) -> LowRank:
        """`a b^T`, from two QRs and a small SVD."""
        q, r = rows.qr(a)
        q_right, r_right = torch.linalg.qr(b)
        # Signs are free in an SVD, so all processes go on with one of them.
        u, s, vh = (rows.same(part) for part in torch.linalg.svd(r @ r_right.mT, full_matrices=False))
        return cls(q @ u, s, q_right @ vh.mT)

    @classmethod
    def leading(
        cls, observed: Observed, rank: int, rows: Rows, generator: torch.Generator | None, power: int = 2
    ) -> LowRank:
        """The leading part of the sparse matrix of the observed values, zero elsewhere, by a randomised SVD."""
        # Drawn on the CPU in float64, so that a seed means the same start everywhere.
        wide = torch.randn(observed.shape[1], rank, generator=generator, dtype=torch.float64)
        right = wide.to(observed.values)
        for _ in range(power):
            left, _ = rows.qr(observed.times(right))
            right, _ = torch.linalg.qr(rows.sum(observed.transposed_times(left)))
        left, _ = rows.qr(observed.times(right))
        return cls.product(left, rows.sum(observed.transposed_times(left)), rows)

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

    def at(self, observed: Observed) -> Float[Tensor, " entries"]:
        """Its values at the observed places."""
        return observed.products(self.u * self.s, self.v)
