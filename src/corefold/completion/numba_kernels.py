"""Loops over observed entries, compiled by numba: blocks of rows in parallel, in float32 and float64.

The entries of row i are `starts[i]` to `starts[i + 1]`, and `columns` says where they lie.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

BLOCKS = 64  # of about as many entries each: rows may be of very unequal length


@njit(nogil=True, cache=True)
def order_by(keys, size, order):
    """Fill `order` with a stable sort of keys 0 .. size - 1; returns where each key starts, (size + 1,)."""
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
def _blocks(starts):
    cuts = np.empty(BLOCKS + 1, np.int64)
    for block in range(BLOCKS):
        cuts[block] = np.searchsorted(starts, starts[-1] * block // BLOCKS)
    cuts[0], cuts[BLOCKS] = 0, len(starts) - 1
    return cuts


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def products(starts, columns, left, right, out):
    """`out` at an entry: the product of its rows of `left` and `right`."""
    cuts = _blocks(starts)
    for block in prange(BLOCKS):
        for row in range(cuts[block], cuts[block + 1]):
            for entry in range(starts[row], starts[row + 1]):
                column = columns[entry]
                total = left[row, 0] * right[column, 0]
                for k in range(1, left.shape[1]):
                    total += left[row, k] * right[column, k]
                out[entry] = total


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def times(starts, columns, values, right, out):
    """`out` = the sparse matrix of these values times `right`."""
    cuts = _blocks(starts)
    for block in prange(BLOCKS):
        total = np.empty(
            right.shape[1], right.dtype
        )  # of its own: the compiler need not fear that it overlaps
        for row in range(cuts[block], cuts[block + 1]):
            total[:] = 0
            for entry in range(starts[row], starts[row + 1]):
                value, given = values[entry], right[columns[entry]]
                for k in range(len(total)):
                    total[k] += value * given[k]
            out[row] = total


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def ridge(starts, columns, values, right, weights, out):
    """Each row of `out`: the least squares fit of a row's values by rows of `right`, a ridge `weights[row]`.

    A row's normal equations are solved by Cholesky; where they are singular, a coefficient of no effect is 0.
    """
    cuts, width = _blocks(starts), right.shape[1]
    for block in prange(BLOCKS):
        gram = np.empty((width, width), right.dtype)
        for row in range(cuts[block], cuts[block + 1]):
            solved = out[row]
            _gather(starts, columns, values, right, row, gram, solved)
            for i in range(width):
                gram[i, i] += weights[row, i]
            _solve(gram, solved)


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def normal(starts, columns, values, right, gram, out):
    """The normal equations that `ridge` solves, without the ridge: lower triangles, and right sides."""
    cuts = _blocks(starts)
    for block in prange(BLOCKS):
        for row in range(cuts[block], cuts[block + 1]):
            _gather(starts, columns, values, right, row, gram[row], out[row])


@njit(parallel=True, nogil=True, cache=True)
def solve(gram, weights, out):
    """Solves normal equations in place, with a ridge `weights[row]`."""
    for row in prange(len(gram)):
        for i in range(weights.shape[1]):
            gram[row, i, i] += weights[row, i]
        _solve(gram[row], out[row])


@njit(fastmath=True, nogil=True, cache=True)
def _gather(starts, columns, values, right, row, gram, out):
    gram[:] = 0
    out[:] = 0
    for entry in range(starts[row], starts[row + 1]):
        value, given = values[entry], right[columns[entry]]
        for i in range(len(out)):
            out[i] += value * given[i]
            for j in range(i + 1):
                gram[i, j] += given[i] * given[j]


@njit(nogil=True, cache=True)
def _solve(gram, x):
    """`gram^-1 x` in place, by Cholesky on the lower triangle."""
    width, small = len(x), 100 * np.finfo(gram.dtype).eps
    for j in range(width):
        before = gram[j, j]
        for k in range(j):
            gram[j, j] -= gram[j, k] ** 2
        if gram[j, j] <= small * before or before == 0:
            gram[j, j], x[j] = np.inf, 0
            for i in range(j + 1, width):
                gram[i, j] = 0
            continue
        gram[j, j] = np.sqrt(gram[j, j])
        for i in range(j + 1, width):
            total = gram[i, j]
            for k in range(j):
                total -= gram[i, k] * gram[j, k]
            gram[i, j] = total / gram[j, j]
    for i in range(width):
        for k in range(i):
            x[i] -= gram[i, k] * x[k]
        x[i] /= gram[i, i]
    for i in range(width - 1, -1, -1):
        for k in range(i + 1, width):
            x[i] -= gram[k, i] * x[k]
        x[i] /= gram[i, i]
