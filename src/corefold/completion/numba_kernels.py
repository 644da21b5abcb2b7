"""Loops over observed entries, compiled by numba: blocks of rows in parallel, in float32 and float64.

The entries of row i are `starts[i]` to `starts[i + 1]`, and `columns` says where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads

BLOCK_COUNT = 64  # Blocks hold about equally many entries, because rows may differ much in length.
# Products in a loop that takes one thread about 1.5 ms. The end of a parallel loop waits for its last thread, and where
# other programs keep all cores busy that thread gets its turn after 10 to 16 ms, however small its part.
MIN_PARALLEL_WORK = 2**22


@contextmanager
def threads_for(work: int) -> Iterator[None]:
    """Run the loops of the block with one thread unless they have enough work, counted in products of numbers."""
    if work >= MIN_PARALLEL_WORK:
        yield
        return
    before = get_num_threads()
    set_num_threads(1)
    try:
        yield
    finally:
        set_num_threads(before)


def work_of(name: str, arrays: list[np.ndarray], out: np.ndarray) -> int:
    """About how many products the loop of this name computes for these arguments."""
    rank = arrays[-1].shape[-1]
    match name:
        case "products":
            return out.size * rank
        case "times":
            return arrays[2].size * rank
        case "solve_normal_equations":
            return arrays[0].size * rank
        case _:
            return (arrays[2].size + out.shape[0] * rank) * rank**2


@njit(nogil=True, cache=True)
def order_by(keys, size, order):
    """Fill `order` with a stable sort of keys 0 .. size - 1; return where each key starts, (size + 1,)."""
    starts = np.zeros(size + 1, np.int64)
    for key in keys:
        starts[key + 1] += 1
    starts = np.cumsum(starts)
    free = starts[:-1].copy()
    for entry in range(len(keys)):
        key = keys[entry]
        order[free[key]] = entry
        free[key] += 1
    return starts


@njit(nogil=True, cache=True)
def _block_ends(starts):
    """Where to cut the rows into blocks of about as many entries each."""
    ends = np.empty(BLOCK_COUNT + 1, np.int64)
    for block in range(BLOCK_COUNT):
        ends[block] = np.searchsorted(starts, starts[-1] * block // BLOCK_COUNT)
    ends[0], ends[BLOCK_COUNT] = 0, len(starts) - 1
    return ends


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def products(starts, columns, left, right, out):
    """`out` at an entry: the product of its rows of `left` and `right`."""
    ends = _block_ends(starts)
    for block in prange(BLOCK_COUNT):
        for row in range(ends[block], ends[block + 1]):
            for entry in range(starts[row], starts[row + 1]):
                column = columns[entry]
                total = left[row, 0] * right[column, 0]
                for k in range(1, left.shape[1]):
                    total += left[row, k] * right[column, k]
                out[entry] = total


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def times(starts, columns, values, right, out):
    """`out` = the sparse matrix of these values times `right`."""
    ends = _block_ends(starts)
    for block in prange(BLOCK_COUNT):
        # An array of the block's own, so that the compiler need not fear that it overlaps with another.
        total = np.empty(right.shape[1], right.dtype)
        for row in range(ends[block], ends[block + 1]):
            total[:] = 0
            for entry in range(starts[row], starts[row + 1]):
                value, loading = values[entry], right[columns[entry]]
                for k in range(len(total)):
                    total[k] += value * loading[k]
            out[row] = total


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def ridge_regression(starts, columns, values, right, ridge, out):
    """Each row of `out`: the least squares fit of a row's values by rows of `right`, with `ridge[row]`.

    A row's normal equations are solved by Cholesky; where they are singular, a coefficient without effect is 0.
    """
    ends, rank = _block_ends(starts), right.shape[1]
    for block in prange(BLOCK_COUNT):
        gram = np.empty((rank, rank), right.dtype)
        for row in range(ends[block], ends[block + 1]):
            solution = out[row]
            _lower_normal_equations(starts, columns, values, right, row, gram, solution)
            for i in range(rank):
                gram[i, i] += ridge[row, i]
            _cholesky_solve(gram, solution)


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def normal_equations(starts, columns, values, right, gram, out):
    """The equations that `ridge_regression` solves, without the ridge: their matrices, and right sides in `out`."""
    ends = _block_ends(starts)
    for block in prange(BLOCK_COUNT):
        for row in range(ends[block], ends[block + 1]):
            _lower_normal_equations(starts, columns, values, right, row, gram[row], out[row])
            for i in range(right.shape[1]):
                for j in range(i):
                    gram[row, j, i] = gram[row, i, j]


@njit(parallel=True, nogil=True, cache=True)
def solve_normal_equations(gram, ridge, out):
    """Solve normal equations in place, with `ridge[row]`."""
    for row in prange(len(gram)):
        for i in range(ridge.shape[1]):
            gram[row, i, i] += ridge[row, i]
        _cholesky_solve(gram[row], out[row])


@njit(fastmath=True, nogil=True, cache=True)
def _lower_normal_equations(starts, columns, values, right, row, gram, out):
    """One row's equations; of the symmetric matrix only the lower triangle."""
    gram[:] = 0
    out[:] = 0
    for entry in range(starts[row], starts[row + 1]):
        value, loading = values[entry], right[columns[entry]]
        for i in range(len(out)):
            out[i] += value * loading[i]
            for j in range(i + 1):
                gram[i, j] += loading[i] * loading[j]


@njit(nogil=True, cache=True)
def _cholesky_solve(gram, x):
    """`gram^-1 x` in place, by Cholesky on the lower triangle."""
    rank, small = len(x), 100 * np.finfo(gram.dtype).eps
    for j in range(rank):
        before = gram[j, j]
        for k in range(j):
            gram[j, j] -= gram[j, k] ** 2
        if gram[j, j] <= small * before or before == 0:
            gram[j, j], x[j] = np.inf, 0
            for i in range(j + 1, rank):
                gram[i, j] = 0
            continue
        gram[j, j] = np.sqrt(gram[j, j])
        for i in range(j + 1, rank):
            total = gram[i, j]
            for k in range(j):
                total -= gram[i, k] * gram[j, k]
            gram[i, j] = total / gram[j, j]
    for i in range(rank):
        for k in range(i):
            x[i] -= gram[i, k] * x[k]
        x[i] /= gram[i, i]
    for i in range(rank - 1, -1, -1):
        for k in range(i + 1, rank):
            x[i] -= gram[k, i] * x[k]
        x[i] /= gram[i, i]
