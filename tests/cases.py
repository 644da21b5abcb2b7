"""The shapes, ranks, depths and dtypes that tests run over, and random objects in general position."""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = [(12, 12), (13, 13), (17, 10), (9, 16)]
"""(out, in): square even and odd, tall, wide."""

DEPTHS = [1, 2, 3, 4, 5]

ROUNDING = {torch.float64: 1e-13, torch.float32: 2e-5}
"""Relative error granted to a few dozen operations in each dtype."""

DTYPES = list(ROUNDING)


def generator(seed: int = 0) -> torch.Generator:
    """A random stream on the CPU."""
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int | torch.Generator = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, the same for a seed in every dtype."""
    stream = generator(seed) if isinstance(seed, int) else seed
    return torch.randn(*shape, generator=stream, dtype=torch.float64).to(dtype)


def frame(rows: int, columns: int, seed: int | torch.Generator = 0) -> Tensor:
    """Random orthonormal columns; for more columns than rows, orthonormal rows."""
    if columns > rows:
        return frame(columns, rows, seed).mT
    return torch.linalg.qr(gaussian(rows, columns, seed=seed)).Q


def matrix_with_spectrum(out: int, in_: int, values: list[float], seed: int = 0) -> Tensor:
    """(out, in) with these nonzero singular values and random singular vectors."""
    stream = generator(seed)
    u, v = frame(out, len(values), stream), frame(in_, len(values), stream)
    return u * torch.tensor(values, dtype=torch.float64) @ v.mT
