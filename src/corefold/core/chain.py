"""The factor chain, the one object that corefold trains, merges and exports.

Source: Yaras, Wang, Balzano, Qu, "Compressible Dynamics in Deep Overparameterized Low-Rank Learning &
Adaptation", ICML 2024 (arXiv 2406.04112), sections 2 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class FactorChain:
    r"""A low-rank matrix written as two tall bases around a small, deep core:

        dense = left @ (W_L ... W_2 W_1 - start * I) @ right.T

    with `W_1 = factors[0]`, the factor applied first. Every factor starts at `init_scale * I` and the bases are
    orthonormal, so with `start = init_scale ** depth` an untrained chain is exactly zero; the paper leaves
    `start` at 0 because its init_scale of 1e-3 makes that product 1e-9.

    A narrow chain has two factors of fewer columns, `(Q, P)`, and the core `P Q^T`: it chooses `rank` directions within
    frames of `width`, and starts at `P = 0`.

    Attributes:
        left: basis of the output side, (out, width).
        factors: the core's factors in the order applied, (depth, width, width); or `(Q, P)`, (2, width, rank).
        right: basis of the input side, (in, width).
        start: what the product of the factors was at the start, taken off the core's diagonal.
    """

    left: Float[Tensor, "out width"]
    factors: Float[Tensor, "depth width rank"]
    right: Float[Tensor, "in width"]
    start: float = 0.0

    @property
    def rank(self) -> int:
        """The most that the rank of `dense` can be: the narrowest part of the chain."""
        return self.factors.shape[2]

    @classmethod
    def at_narrow_start(
        cls,
        left: Float[Tensor, "out width"],
        right: Float[Tensor, "in width"],
        rank: int,
        generator: torch.Generator | None = None,
    ) -> FactorChain:
        """A narrow chain before training: `Q` random with orthonormal columns, `P` zero, and so the product.

        Args:
            left: basis of the output side.
            right: basis of the input side.
            rank: columns of `P` and `Q`, below the width.
            generator: source of `Q`, on the CPU.
        """
        noise = torch.randn(left.shape[1], rank, generator=generator, dtype=torch.float64).to(left)
        q = torch.linalg.qr(noise).Q
        return cls(left, torch.stack([q, torch.zeros_like(q)]), right)

    @classmethod
    def at_start(
        cls,
        left: Float[Tensor, "out width"],
        right: Float[Tensor, "in width"],
        depth: int,
        init_scale: float,
    ) -> FactorChain:
        """The chain before training: all `depth` factors `init_scale * I`, the product exactly zero."""
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
    ) -> FactorChain:
        """The chain equal to `u diag(s) v^T` (s >= 0), with orthonormal bases and `depth` equal factors."""
        start = start_product(init_scale, depth, u.dtype)
        factor = (s.double() + start).pow(1 / depth).diag().to(u)
        return cls(u, factor.repeat(depth, 1, 1), v, start)

    def core(self) -> Float[Tensor, "width width"]:
        """`W_L ... W_2 W_1 - start * I`, or `P Q^T`."""
        if self.rank < self.left.shape[1]:
            return self.factors[1] @ self.factors[0].mT
        product = reduce(lambda done, factor: factor @ done, self.factors.unbind(0))
        if not self.start:
            return product
        eye = torch.eye(product.shape[0], dtype=product.dtype, device=product.device)
        return torch.sub(product, eye, alpha=self.start)

    def __call__(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """`x @ dense.T`, without forming the dense matrix."""
        tall, right = self.thin()
        return (x @ right) @ tall.mT

    def dense(self) -> Float[Tensor, "out in"]:
        """The matrix itself."""
        tall, right = self.thin()
        return tall @ right.mT

    def thin(
        self, dtype: torch.dtype | None = None
    ) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "in rank"]]:
        """`(tall, right)` with `dense = tall @ right.T`, as narrow as the chain is; in its own dtype or another."""
        dtype = dtype or self.left.dtype
        left, right = self.left.to(dtype), self.right.to(dtype)
        if self.rank < left.shape[1]:
            return left @ self.factors[1].to(dtype), right @ self.factors[0].to(dtype)
        # The core as the chain itself rounds it, or a start that cancels exactly would leave rounding behind.
        return left @ self.core().to(dtype), right

    def singular_values(self) -> Float[Tensor, " rank"]:
        """Singular values of `dense`, largest first, from two QRs of tall bases and one small SVD."""
        return self._svd()[1].to(self.left.dtype)

    def collapse(
        self, rank: int | None = None, tol: float | None = None
    ) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank in"]]:
        """A LoRA pair `(b, a)` with `b @ a` equal to `dense`, or the best approximation of it.

        Args:
            rank: keep this many directions, 1 to the chain's rank. Default: all of them, which is exact.
            tol: keep the fewest directions (at least one) with `norm(dense - b @ a) <= tol * norm(dense)`, in
                the Frobenius norm. By Eckart and Young no other pair of that rank comes closer.

        Raises:
            ValueError: both given, or rank or tol outside its range.
        """
        if rank is not None and tol is not None:
            raise ValueError(f"collapse takes rank or tol, not both; got rank={rank} and tol={tol}")
        if rank is not None and not 1 <= rank <= self.rank:
            raise ValueError(f"rank must lie between 1 and the chain's {self.rank}; got {rank}")
        if tol is not None and not 0 <= tol < 1:
            raise ValueError(f"tol is a relative error, 0 <= tol < 1; got {tol}")
        u, s, v = self._svd()
        if tol is not None:
            lost = s.square().flip(0).cumsum(0).flip(0).sqrt()  # lost[k] = error of keeping k directions
            rank = max(1, int((lost > tol * lost[0]).sum()))
        root = s[:rank].sqrt()
        b, a = u[:, :rank] * root, (v[:, :rank] * root).mT
        return b.to(self.left.dtype).contiguous(), a.to(self.left.dtype).contiguous()

    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        return low_rank_svd(*self.thin(torch.float64))  # which tall bases and one small SVD make cheap


def low_rank_svd(
    tall: Float[Tensor, "out k"], right: Float[Tensor, "in k"]
) -> tuple[Float[Tensor, "out rank"], Float[Tensor, " rank"], Float[Tensor, "in rank"]]:
    """`(u, s, v)` with `u diag(s) v^T = tall @ right.T`, largest first, from two QRs and one small SVD."""
    q_left, r_left = torch.linalg.qr(tall)
    q_right, r_right = torch.linalg.qr(right)
    u, s, vh = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
    return q_left @ u, s, q_right @ vh.mT


def start_product(init_scale: float, depth: int, dtype: torch.dtype) -> float:
    """`init_scale ** depth`, rounded in `dtype` step by step, as a product of the factors rounds it."""
    scale = torch.tensor(init_scale, dtype=dtype, device="cpu")
    return reduce(lambda done, factor: factor * done, [scale] * depth).item()
