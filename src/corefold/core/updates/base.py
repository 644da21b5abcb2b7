"""The interface of every update of a weight."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from corefold.core.linalg.svd import low_rank_svd


class Update(ABC):
    """A matrix (out, in) in few numbers: what an adapter adds to a frozen weight.

    A subclass is a frozen dataclass of tensors that says what its `dense` matrix is, and its `thin` pair if it has one.
    All else follows from these two.
    """

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its tensors."""
        return next(value.dtype for value in vars(self).values() if isinstance(value, Tensor))

    @abstractmethod
    def dense(self) -> Float[Tensor, "out in"]:
        """The matrix itself."""

    def thin(
        self, dtype: torch.dtype | None = None
    ) -> tuple[Float[Tensor, "out k"], Float[Tensor, "in k"]] | None:
        """`(tall, right)` with `dense = tall @ right.T`, in its own dtype or another. None: only `dense` serves."""
        return None

    @property
    def rank(self) -> int:
        """The largest rank that `dense` can have."""
        thin = self.thin()
        return min(self.dense().shape) if thin is None else min(*thin[0].shape, len(thin[1]))

    def map_factors(self) -> tuple[Tensor, Tensor | None, Tensor] | None:
        """`(left, core, right)` with `dense = left @ core @ right.T`, in the form that a linear map runs fastest.

        No core means the identity. None: there is no such form.
        """
        thin = self.thin()
        return None if thin is None else (thin[0], None, thin[1])

    def lookup_factors(self) -> tuple[Tensor, Tensor] | None:
        """`thin`, in the form that is fastest where few rows of `right` are looked up, as an embedding does."""
        return self.thin()

    def __call__(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """`x @ dense.T`; a thin update does not form the dense matrix."""
        thin = self.thin()
        if thin is None:
            return functional.linear(x, self.dense())
        return (x @ thin[1]) @ thin[0].mT

    def singular_values(self) -> Float[Tensor, " k"]:
        """Singular values of `dense`, largest first; of a thin update, at most as many as the pair has columns."""
        return self._svd()[1].to(self.dtype)

    def collapse(
        self, rank: int | None = None, tol: float | None = None
    ) -> tuple[Float[Tensor, "out k"], Float[Tensor, "k in"]]:
        """A LoRA pair `(b, a)` with `b @ a` equal to `dense`, or the best approximation of it.

        Args:
            rank: keep this many directions, from 1 to the update's rank. Default: all of them, which is exact.
            tol: keep the fewest directions (at least one) with `norm(dense - b @ a) <= tol * norm(dense)`, in the
                Frobenius norm. By Eckart and Young no other pair of that rank comes closer.

        Raises:
            ValueError: both given, or rank or tol outside its range.
        """
        if rank is not None and tol is not None:
            raise ValueError(f"collapse takes rank or tol, not both; got rank={rank} and tol={tol}")
        if tol is not None and not 0 <= tol < 1:
            raise ValueError(f"tol is a relative error, 0 <= tol < 1; got {tol}")
        u, s, v = self._svd()
        if rank is not None and not 1 <= rank <= len(s):
            raise ValueError(f"rank must lie between 1 and the update's {len(s)}; got {rank}")
        if tol is not None:
            # lost[k] is the error of keeping k directions.
            lost = s.square().flip(0).cumsum(0).flip(0).sqrt()
            rank = max(1, int((lost > tol * lost[0]).sum()))
        root = s[:rank].sqrt()
        b, a = u[:, :rank] * root, (v[:, :rank] * root).mT
        return b.to(self.dtype).contiguous(), a.to(self.dtype).contiguous()

    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        thin = self.thin(torch.float64)
        if thin is not None:
            return low_rank_svd(*thin)
        u, s, vh = torch.linalg.svd(self.dense().double(), full_matrices=False)
        return u, s, vh.mT
