"""Arithmetic that a chain needs whatever the model around it computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.amp import is_autocast_available

from corefold.core import start_product

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def unrounded(device: str) -> AbstractContextManager[Any]:
    """No autocast on such a device: the core is a small difference of products, which it would round away."""
    return torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext()


def start_products(init_scale: float, depth: int) -> dict[torch.dtype, float]:
    """What the product of the factors is at the start, in each dtype that the model may be cast to."""
    return {dtype: start_product(init_scale, depth, dtype) for dtype in DTYPES}
