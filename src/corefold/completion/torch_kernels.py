"""The loops of `kernels.py` as PyTorch operations, for a GPU: entries in chunks, gathered and added to their rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ROOM = 2**26  # numbers that a chunk may gather


def order_by(keys: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A stable order of keys 0 .. size - 1, and where each key starts in it, and the end."""
    starts = torch.bincount(keys, minlength=size).cumsum(0)
    return keys.sort(stable=True).indices, torch.cat([starts.new_zeros(1), starts])


def products(starts: Tensor, columns: Tensor, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """`out` at an entry: the product of its rows of `left` and `right`."""
    for part, rows in _chunks(starts, left.shape[1]):
        torch.linalg.vecdot(left[rows], right[columns[part]], out=out[part])
    return out


def times(starts: Tensor, columns: Tensor, values: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """`out` = the sparse matrix of these values times `right`."""
    out.zero_()
    for part, rows in _chunks(starts, right.shape[1]):
        out.index_add_(0, rows, values[part, None] * right[columns[part]])
    return out


def ridge(
    starts: Tensor, columns: Tensor, values: Tensor, right: Tensor, weights: Tensor, out: Tensor
) -> Tensor:
    """Each row of `out`: the least squares fit of a row's values by rows of `right`, a ridge `weights[row]`."""
    width = right.shape[1]
    gram = right.new_empty(len(out), width, width)
    normal(starts, columns, values, right, gram, out)
    return solve(gram, weights, out)


def normal(
    starts: Tensor, columns: Tensor, values: Tensor, right: Tensor, gram: Tensor, out: Tensor
) -> Tensor:
    """The normal equations that `ridge` solves, without the ridge: their matrices, and right sides."""
    gram.zero_()
    for part, rows in _chunks(starts, right.shape[1] ** 2):
        given = right[columns[part]]
        gram.index_add_(0, rows, given[:, :, None] * given[:, None, :])
    return times(starts, columns, values, right, out)


def solve(gram: Tensor, weights: Tensor, out: Tensor) -> Tensor:
    """Solves normal equations in place, with a ridge `weights[row]`."""
    gram.diagonal(dim1=1, dim2=2).add_(weights)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal.add_(100 * torch.finfo(out.dtype).eps * diagonal)
    diagonal.masked_fill_(diagonal == 0, 1)  # of no effect: the right side is 0 there
    return out.copy_(torch.linalg.solve(gram, out[..., None])[..., 0])


def _chunks(starts: Tensor, each: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the entries that gather at most `ROOM` numbers, `each` an entry, and the rows of their entries."""
    entries, size = int(starts[-1]), max(1, ROOM // each)
    for begin in range(0, entries, size):
        end = min(begin + size, entries)
        places = torch.arange(begin, end, device=starts.device)
        yield slice(begin, end), torch.searchsorted(starts, places, right=True) - 1
