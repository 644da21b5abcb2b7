"""Arithmetic that an update needs, whatever the model around it computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.amp import is_autocast_available


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """No autocast on this device: it would round away a core, which is a small difference of products."""
    return torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext()
