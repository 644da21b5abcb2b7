"""Updates in general position, of every class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cases import gaussian, generator
from corefold.core import DeepCore, PairCore, Update


def random_deep_core(
    out: int,
    in_: int,
    width: int,
    depth: int,
    *,
    start: float = 0.3,
    core_rank: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> DeepCore:
    """A deep core far from its start: every factor different, bases neither orthonormal nor alike.

    With `core_rank` the middle factor has that rank, so with `start=0` the whole update has it.
    """
    stream = generator(seed)
    factors = gaussian(depth, width, width, seed=stream) / width**0.5
    if core_rank is not None:
        u, s, vh = torch.linalg.svd(factors[depth // 2])
        factors[depth // 2] = (u[:, :core_rank] * s[:core_rank]) @ vh[:core_rank]
    left, right = gaussian(out, width, seed=stream), gaussian(in_, width, seed=stream)
    return DeepCore(left.to(dtype), factors.to(dtype), right.to(dtype), start)


def random_pair_core(
    out: int, in_: int, width: int, rank: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> PairCore:
    """A pair core far from its start, in bases that are not orthonormal."""
    stream = generator(seed)
    shapes = (out, width), (2, width, rank), (in_, width)
    left, factors, right = (gaussian(*shape, seed=stream, dtype=dtype) for shape in shapes)
    return PairCore(left, factors, right)


@dataclass(frozen=True)
class Squared(Update):
    """An update that has no thin pair: the squared entries of a low-rank matrix."""

    tall: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        return (self.tall @ self.right.mT).square()


def random_squared(out: int, in_: int, rank: int, *, seed: int = 0) -> Squared:
    stream = generator(seed)
    return Squared(gaussian(out, rank, seed=stream), gaussian(in_, rank, seed=stream))
