"""The bounds within which predictions are clipped."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from corefold.completion.distributed import RowPartition
from corefold.completion.observed import Observed

Bounds = tuple[Tensor, Tensor]  # low and high, each one number or one for each column


def bounds_of(clip: Any, observed: Observed, partition: RowPartition) -> Bounds | None:
    """The bounds that the setting `clip` stands for; None for none.

    Raises:
        ValueError: a pair of another shape, or with a low end above the high one.
    """
    if clip is None:
        return None
    if isinstance(clip, str) and clip == "auto":
        return _rating_scale(observed.values, partition)
    width = observed.shape[1]
    try:
        low, high = (torch.as_tensor(np.asarray(end, float)).to(observed.values) for end in clip)
        for end in (low, high):
            torch.broadcast_to(end, (width,))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f'clip must be "auto", None, or (low, high), each a number or {width} numbers, one a column; got {clip!r}'
        ) from error
    if (low > high).any():
        raise ValueError(f"clip must be (low, high) with low <= high; got {clip!r}")
    return low, high


def _rating_scale(values: Tensor, partition: RowPartition) -> Bounds | None:
    """The smallest and the largest value, if both occur more than once, as on a scale of ratings."""
    ends = torch.stack([-values.amin(), values.amax()]) if len(values) else values.new_full((2,), -torch.inf)
    ends = partition.max(ends)
    low, high = -ends[0], ends[1].clone()
    counts = partition.sum(torch.stack([(values == low).sum(), (values == high).sum()]))
    return (low, high) if bool(counts.amin() > 1) and bool(low < high) else None


def clipped(predicted: Tensor, bounds: Bounds | None, columns: Any = slice(None)) -> Tensor:
    """Predictions within the bounds; `columns` are those of their last dimension."""
    if bounds is None:
        return predicted
    low, high = (end.to(predicted) if end.ndim == 0 else end.to(predicted)[columns] for end in bounds)
    return predicted.clamp(low, high)
