"""Bounds: of what is predicted, of what fits in memory, and of what the data can settle."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from corefold.completion.observed import Observed
from corefold.completion.distributed import Rows


def bounds_of(clip: Any, observed: Observed, rows: Rows) -> tuple[Tensor, Tensor] | None:
    """`(low, high)`, each of one number or of one for each column.

    Raises:
        ValueError: a pair of another shape, or with a low end above the high one.
    """
    if clip is None:
        return None
    if isinstance(clip, str) and clip == "auto":
        return _scale(observed.values, rows)
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


def _scale(values: Tensor, rows: Rows) -> tuple[Tensor, Tensor] | None:
    """The ends of a scale on which values repeat, if they do."""
    ends = torch.stack([-values.amin(), values.amax()]) if len(values) else values.new_full((2,), -torch.inf)
    ends = rows.most(ends)
    low, high = -ends[0], ends[1].clone()
    often = rows.sum(torch.stack([(values == low).sum(), (values == high).sum()]))
    return (low, high) if bool(often.amin() > 1) and bool(low < high) else None


def clipped(predicted: Tensor, bounds: tuple[Tensor, Tensor] | None, columns: Any = slice(None)) -> Tensor:
    """Predictions within bounds; `columns` are theirs, along the last dimension."""
    if bounds is None:
        return predicted
    low, high = (end.to(predicted) if end.ndim == 0 else end.to(predicted)[columns] for end in bounds)
    return predicted.clamp(low, high)


def fits_in_memory(what: str, numbers: int, itemsize: int, instead: str) -> None:
    """Refuse what would not fit, before it is allocated, and say what to do instead.

    Raises:
        MemoryError: with the estimate.
    """
    needed, free = numbers * itemsize, psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(
            f"{what} would take {needed / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free; {instead}"
        )


def warn_of_gaps(observed: Observed, rows: Rows, width: int) -> None:
    """Say what the data cannot settle."""
    columns = rows.sum(observed.column_starts.diff())
    empty_rows = rows.sum((observed.starts.diff() == 0).sum())
    for name, empty in (("rows", int(empty_rows)), ("columns", int((columns == 0).sum()))):
        if empty:
            warnings.warn(f"{empty} {name} have no observed entry; biases alone predict them", stacklevel=3)
    height, entries = height_and_entries(observed, rows)
    freedom = width * (height + observed.shape[1] - width)
    if entries < freedom:
        warnings.warn(
            f"{entries} observed entries are fewer than the {freedom} degrees of freedom of a matrix of shape "
            f"{(height, observed.shape[1])} and rank {width}",
            stacklevel=3,
        )


def height_and_entries(observed: Observed, rows: Rows) -> tuple[int, int]:
    """Of the whole matrix."""
    height, entries = rows.sum(observed.starts.new_tensor([observed.shape[0], len(observed)])).tolist()
    return height, entries
