"""Singular value decompositions of factored matrices, and the two conventions that they leave open."""

from __future__ import annotations

import pytest
import torch

from cases import DTYPES, ROUNDING, SHAPES, frame, gaussian
from corefold.core import low_rank_svd, significant, with_positive_peaks
from laws import orthonormal_columns, same_matrix


class TestLowRankSvd:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("width", [1, 5, 10, 25])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_is_the_svd_of_the_product(self, out, in_, width, dtype):
        tall, right = gaussian(out, width, seed=1, dtype=dtype), gaussian(in_, width, seed=2, dtype=dtype)
        dense = tall.double() @ right.double().mT
        u, s, v = low_rank_svd(tall, right)
        rank = min(out, in_, width)
        assert (u.shape, s.shape, v.shape) == ((out, rank), (rank,), (in_, rank))
        for columns in (u, v):
            orthonormal_columns(columns, ROUNDING[dtype])
        same_matrix(s, torch.linalg.svdvals(dense)[:rank], ROUNDING[dtype])
        same_matrix((u * s).double() @ v.double().mT, dense, ROUNDING[dtype])

    def test_of_dependent_columns(self):
        tall, right = gaussian(17, 3, seed=1), gaussian(10, 3, seed=2)
        u, s, v = low_rank_svd(torch.cat([tall, tall], 1), torch.cat([right, -right], 1))
        assert s.max() < 1e-12
        for columns in (u, v):
            orthonormal_columns(columns, 1e-13)
        _, s, _ = low_rank_svd(torch.cat([tall, tall], 1), torch.cat([right, right], 1))
        assert s[2] > 0.1
        assert (s[3:] < 1e-12 * s[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_positive_peaks_change_no_pair(out, in_, dtype):
    left, right = frame(out, 5, 1).to(dtype), frame(in_, 5, 2).to(dtype)
    turned_left, turned_right = with_positive_peaks(left, right)
    peaks = turned_left.gather(0, turned_left.abs().argmax(0, keepdim=True))
    assert (peaks > 0).all()
    assert not torch.equal(turned_left, left)
    for i in range(5):
        assert torch.equal(turned_left[:, i : i + 1] * turned_right[:, i], left[:, i : i + 1] * right[:, i])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_significant_counts_values_above_rounding(dtype, scale):
    step = 30 * torch.finfo(dtype).eps  # The longer side of the matrix is 30.
    values = scale * torch.tensor([1, 0.5, 1.1 * step, 0.9 * step, 0], dtype=dtype)
    assert significant(values, 30) == 3


@pytest.mark.parametrize("values", [[], [0.0, 0.0]], ids=str)
def test_nothing_is_significant_in_nothing(values):
    assert significant(torch.tensor(values), 30) == 0
