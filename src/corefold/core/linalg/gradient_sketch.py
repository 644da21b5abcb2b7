"""A streaming low-rank sketch of a weight's gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from corefold.core.linalg.svd import low_rank_svd, significant, with_positive_peaks

POWER_ITERATIONS = 4

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GradientSketch:
    """The running sum `G = sum(g^T x)` of a linear layer's weight gradient, kept as `left diag(values) right^T`.

    Neither `G` (out x in) nor any past batch is held: memory is O((out + in) size). One batch of rank `size` or less
    is exact. Beyond that, truncation errors enter the subspace at second order, so `size` should exceed the number of
    directions wanted. Each `add` is a truncated randomised SVD of the old sketch plus the new batch (Halko, Martinsson,
    Tropp 2011, algorithm 4.4). Signs follow `with_positive_peaks`.

    Attributes:
        left: (out, size), orthonormal columns.
        values: singular values of the sketch, (size,), largest first.
        right: (in, size), orthonormal columns.
        tokens: rows of x seen so far.
    """

    left: Float[Tensor, "out size"]
    values: Float[Tensor, " size"]
    right: Float[Tensor, "in size"]
    tokens: int = 0

    @classmethod
    def empty(
        cls, out_features: int, in_features: int, size: int, like: Shaped[Tensor, "..."]
    ) -> GradientSketch:
        """A sketch of nothing, of at most min(out, in, size) directions, on the device of `like`."""
        size = min(size, out_features, in_features)
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        zeros = torch.zeros(out_features + in_features, size, dtype=dtype, device=like.device)
        return cls(zeros[:out_features], zeros.new_zeros(size), zeros[out_features:])

    def add(
        self,
        output_grad: Shaped[Tensor, "*batch out"],
        inputs: Shaped[Tensor, "*batch in"],
        generator: torch.Generator | None = None,
    ) -> GradientSketch:
        """The sketch of `G + output_grad^T inputs`, both flattened to (tokens, features); flat inputs may be sparse."""
        g = output_grad.reshape(-1, self.left.shape[0]).to(self.left)
        x = (inputs if inputs.is_sparse else inputs.reshape(-1, self.right.shape[0])).to(self.right)
        multiply, multiply_transposed = self._products_with(g, x)
        # Draw on the CPU in float64, so that a seed means the same start on every device and in every dtype.
        p = torch.randn(self.right.shape, generator=generator, dtype=torch.float64).to(self.right)
        for _ in range(POWER_ITERATIONS):
            q = torch.linalg.qr(multiply(p)).Q
            p = torch.linalg.qr(multiply_transposed(q)).Q
        q = torch.linalg.qr(multiply(p)).Q
        p, r = torch.linalg.qr(multiply_transposed(q))
        u, s, vh = torch.linalg.svd(r)  # G ~ q (p r)^T = (q v) diag(s) (p u)^T
        left, right = with_positive_peaks(q @ vh.mT, p @ u)
        return GradientSketch(left, s, right, self.tokens + x.shape[0])

    @classmethod
    def merge(cls, sketches: Sequence[GradientSketch]) -> GradientSketch:
        """The sketch of the sum of several gradients: the best one of the sketches' common shape and size."""
        size = sketches[0].values.shape[0]
        tall = torch.cat([sketch.left * sketch.values for sketch in sketches], 1)
        u, s, v = low_rank_svd(tall, torch.cat([sketch.right for sketch in sketches], 1))
        left, right = with_positive_peaks(u[:, :size], v[:, :size])
        return cls(left, s[:size], right, sum(sketch.tokens for sketch in sketches))

    def _products_with(
        self, g: Shaped[Tensor, "tokens out"], x: Shaped[Tensor, "tokens in"]
    ) -> tuple[Product, Product]:
        """`columns -> G columns` and `columns -> G^T columns` for `G` the sketch plus `g^T x`.

        A column costs `(out + in) tokens` multiplications from the factors, and `out in` from `G` once it is formed.
        Forming `G` pays for many tokens or a large sketch; it then has at most twice the entries of the larger factor.
        """
        terms = [(g, x)]
        if self.tokens:  # The old sketch costs as much as one token for each of its directions.
            terms.append(((self.left * self.values).mT, self.right.mT))
        tokens = sum(len(a) for a, _ in terms)
        (out, size), in_ = self.left.shape, len(self.right)
        columns = 2 * (POWER_ITERATIONS + 1) * size  # multiplied in all
        if not x.is_sparse and out * in_ * (tokens + columns) < (out + in_) * tokens * columns:
            dense = reduce(torch.add, (a.mT @ b for a, b in terms))
            return lambda q: (q.mT @ dense.mT).mT, lambda q: (q.mT @ dense).mT
        # Rows are the layout that QR takes, and multiply faster.
        return (
            lambda q: reduce(torch.add, ((b @ q).mT @ a for a, b in terms)).mT,
            lambda q: reduce(torch.add, ((a @ q).mT @ b for a, b in terms)).mT,
        )

    def rank(self) -> int:
        """How many directions of the sketch stand above rounding."""
        return significant(self.values, max(len(self.left), len(self.right)))
