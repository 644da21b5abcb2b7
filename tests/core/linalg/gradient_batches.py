"""Batches of output gradients and inputs, and sketches of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cases import frame, gaussian, generator
from corefold.core import GradientSketch
from laws import angle_into

SHAPES = [(120, 80), (80, 120), (95, 95)]
DTYPES = [torch.float64, torch.float32]
Batch = tuple[Tensor, Tensor]


def empty_sketch(out: int, in_: int, size: int, dtype: torch.dtype = torch.float64) -> GradientSketch:
    return GradientSketch.empty(out, in_, size, torch.zeros(1, dtype=dtype))


def sketch_of(batches: list[Batch], size: int, dtype: torch.dtype = torch.float64) -> GradientSketch:
    stream, (g, x) = generator(99), batches[0]
    sketch = empty_sketch(g.shape[-1], x.shape[-1], size, dtype)
    for g, x in batches:
        sketch = sketch.add(g, x, stream)
    return sketch


def summed(batches: list[Batch]) -> Tensor:
    return sum(g.double().mT @ x.double() for g, x in batches)


def dense_of(sketch: GradientSketch) -> Tensor:
    return sketch.left.double() * sketch.values.double() @ sketch.right.double().mT


def worst_angle(sketch: GradientSketch, total: Tensor, k: int) -> float:
    u, _, vh = torch.linalg.svd(total)
    return max(angle_into(sketch.left[:, :k], u[:, :k]), angle_into(sketch.right[:, :k], vh[:k].mT))


def low_rank_batches(out: int, in_: int, rank: int, count: int, tokens: int = 40) -> list[Batch]:
    """All batches in one pair of spaces, so that every gradient and their sum have this rank."""
    u, v, stream = frame(out, rank, 1), frame(in_, rank, 2), generator(3)
    return [
        (gaussian(tokens, rank, seed=stream) @ u.mT, gaussian(tokens, rank, seed=stream) @ v.mT)
        for _ in range(count)
    ]


def signal_and_noise(
    out: int, in_: int, k: int, count: int, strength: float, seed: int, tokens: int = 64
) -> Iterator[Batch]:
    """`k` directions common to all batches over noise of full rank, whose norm is about 200 in each batch."""
    stream = generator(seed)
    u, v = frame(out, k, stream), frame(in_, k, stream)
    for _ in range(count):
        noise_g, noise_x = gaussian(tokens, out, seed=stream), gaussian(tokens, in_, seed=stream)
        sizes = strength * torch.linspace(2, 1, k, dtype=torch.float64)
        yield torch.cat([noise_g, sizes[:, None] * u.mT]), torch.cat([noise_x, v.mT])
