"""The pair core: `P Q^T` of fewer directions than the bases have columns."""

from __future__ import annotations

import pytest
import torch

from cases import DTYPES, ROUNDING, SHAPES, frame, generator
from core.updates.random_updates import random_pair_core
from corefold.core import PairCore
from laws import orthonormal_columns, same_matrix

WIDTH = 6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_it_is_the_dense_product(out, in_, dtype):
    update = random_pair_core(out, in_, WIDTH, 2, dtype=dtype)
    q, p = update.factors.double()
    expected = update.left.double() @ p @ q.mT @ update.right.double().mT
    same_matrix(update.dense(), expected, ROUNDING[dtype])
    same_matrix(update.core(), p @ q.mT, ROUNDING[dtype])


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_it_collapses_to_its_own_rank(rank):
    update = random_pair_core(9, 16, WIDTH, rank)
    b, a = update.collapse()
    assert (update.rank, b.shape, a.shape) == (rank, (9, rank), (rank, 16))
    same_matrix(b @ a, update.dense(), 1e-12)
    assert update.singular_values().shape == (rank,)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_starts_with_an_orthonormal_choice(dtype):
    left, right = frame(17, WIDTH, 1).to(dtype), frame(10, WIDTH, 2).to(dtype)
    update = PairCore.at_start(left, right, 2, generator(3))
    assert not update.factors[1].any()
    orthonormal_columns(update.factors[0], ROUNDING[dtype])
    again = PairCore.at_start(left, right, 2, generator(3))
    assert torch.equal(update.factors, again.factors)
