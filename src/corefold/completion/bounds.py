"""Bounds: of what is predicted, and of what fits in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from corefold.completion.observed import Observed


def bounds_of(clip: Any, observed: Observed) -> tuple[Tensor, Tensor] | None:
    """`(low, high)`, each of one number or of one for each column.

    Raises:
        ValueError: a pair of another shape, or with a low end above the high one.
    """
    if clip is None:
        return None
    if isinstance(clip, str) and clip == "auto":
        low, high = observed.values.aminmax()
        repeated = all(int((observed.values == end).sum()) > 1 for end in (low, high))
        return (low, high) if repeated and low < high else None
    width = observed.shape[1]
    try:
        low, high = (torch.as_tensor(np.asarray(end, float)).to(observed.values) for end in clip)
        torch.broadcast_to(low, (width,)), torch.broadcast_to(high, (width,))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f'clip must be "auto", None, or (low, high), each a number or {width} numbers, one a column; got {clip!r}'
        ) from error
    if (low > high).any():
        raise ValueError(f"clip must be (low, high) with low <= high; got {clip!r}")
    return low, high


def fits_in_memory(what: str, numbers: int, itemsize: int) -> None:
    """Refuse what would not fit, before it is allocated.

    Raises:
        MemoryError: with the estimate.
    """
    needed, free = numbers * itemsize, psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(
            f"{what} would take {needed / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free; "
            "single entries cost nothing: entries(rows, columns)"
        )
