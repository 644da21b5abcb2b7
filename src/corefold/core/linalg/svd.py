"""Singular value decompositions of factored matrices, and the two conventions that they leave open."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def low_rank_svd(
    tall: Float[Tensor, "out k"], right: Float[Tensor, "in k"]
) -> tuple[Float[Tensor, "out rank"], Float[Tensor, " rank"], Float[Tensor, "in rank"]]:
    """`(u, s, v)` with `u diag(s) v^T = tall @ right.T`, largest first, from two QRs and one small SVD."""
    q_left, r_left = torch.linalg.qr(tall)
    q_right, r_right = torch.linalg.qr(right)
    u, s, vh = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
    return q_left @ u, s, q_right @ vh.mT


def with_positive_peaks(
    left: Float[Tensor, "out k"], right: Float[Tensor, "in k"]
) -> tuple[Float[Tensor, "out k"], Float[Tensor, "in k"]]:
    """The same pairs of singular vectors, with signs such that the largest entry of each left one is positive."""
    peaks = left.gather(0, left.abs().argmax(0, keepdim=True))
    signs = torch.where(peaks < 0, -1.0, 1.0).to(left)
    return left * signs, right * signs


def significant(values: Float[Tensor, " k"], size: int) -> int:
    """How many singular values stand above rounding: above `size` (the longer side) x machine epsilon x the largest."""
    if not values.numel():
        return 0
    return int((values > size * torch.finfo(values.dtype).eps * values.max()).sum())
