"""The loops of `numba_kernels.py` as PyTorch operations, for a GPU: entries are gathered and added to their rows.

They work in chunks, so that no temporary tensor has more than `MAX_CHUNK_NUMBERS` numbers however large the matrix is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MAX_CHUNK_NUMBERS = 2**24
# The normal equations of a block of rows, the two copies in which they are factorized, and a chunk of outer products.
MAX_WORKSPACE_NUMBERS = 4 * MAX_CHUNK_NUMBERS


def order_by(keys: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A stable order of keys 0 .. size - 1, and where each key starts in it, and the end."""
    starts = torch.bincount(keys, minlength=size).cumsum(0)
    return keys.sort(stable=True).indices, torch.cat([starts.new_zeros(1), starts])


def products(starts: Tensor, columns: Tensor, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """`out` at an entry: the product of its rows of `left` and `right`."""
    for part, rows in _entry_chunks(starts, left.shape[1]):
        torch.linalg.vecdot(left[rows], right[columns[part]], out=out[part])
    return out


def times(starts: Tensor, columns: Tensor, values: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """`out` = the sparse matrix of these values times `right`."""
    out.zero_()
    for part, rows in _entry_chunks(starts, right.shape[1]):
        out.index_add_(0, rows, values[part, None] * right[columns[part]])
    return out


def ridge_regression(
    starts: Tensor, columns: Tensor, values: Tensor, right: Tensor, ridge: Tensor, out: Tensor
) -> Tensor:
    """Each row of `out`: the least squares fit of a row's values by rows of `right`, with `ridge[row]`."""
    rank = right.shape[1]
    for rows, part in row_blocks(starts, max(1, MAX_CHUNK_NUMBERS // rank**2)):
        block = out[rows]
        gram = right.new_empty(len(block), rank, rank)
        block_starts = starts[rows.start : rows.stop + 1] - part.start
        normal_equations(block_starts, columns[part], values[part], right, gram, block)
        solve_normal_equations(gram, ridge[rows], block)
    return out


def normal_equations(
    starts: Tensor, columns: Tensor, values: Tensor, right: Tensor, gram: Tensor, out: Tensor
) -> Tensor:
    """The equations that `ridge_regression` solves, without the ridge: their matrices, and right sides in `out`."""
    gram.zero_()
    for part, rows in _entry_chunks(starts, right.shape[1] ** 2):
        loadings = right[columns[part]]
        gram.index_add_(0, rows, loadings[:, :, None] * loadings[:, None, :])
    return times(starts, columns, values, right, out)


def solve_normal_equations(gram: Tensor, ridge: Tensor, out: Tensor) -> Tensor:
    """Solve normal equations in place, with `ridge[row]`."""
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal.add_(ridge)
    diagonal.add_(100 * torch.finfo(out.dtype).eps * diagonal)
    diagonal.masked_fill_(diagonal == 0, 1)  # the right side is 0 there, and so becomes the coefficient
    return out.copy_(torch.linalg.solve(gram, out[..., None])[..., 0])


def row_blocks(starts: Tensor, height: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of at most `height` rows, and the entries of each."""
    row_count = len(starts) - 1
    cuts = [*range(0, row_count, height), row_count]
    entries = starts[cuts].tolist()
    for block in range(len(cuts) - 1):
        yield slice(cuts[block], cuts[block + 1]), slice(entries[block], entries[block + 1])


def _entry_chunks(starts: Tensor, numbers_per_entry: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the entries, each of `MAX_CHUNK_NUMBERS` numbers at most, and the rows of their entries."""
    entries, size = int(starts[-1]), max(1, MAX_CHUNK_NUMBERS // max(1, numbers_per_entry))
    for begin in range(0, entries, size):
        end = min(begin + size, entries)
        places = torch.arange(begin, end, device=starts.device)
        yield slice(begin, end), torch.searchsorted(starts, places, right=True) - 1
