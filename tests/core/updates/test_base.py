"""Singular values and collapsed pairs where the laws do not reach: deficient ranks, square bases, tiny values."""

from __future__ import annotations

import pytest
import torch

from cases import DTYPES, ROUNDING, frame, gaussian
from core.updates.random_updates import random_deep_core
from corefold.core import DeepCore
from laws import orthonormal_columns, same_matrix, spans_same_space

WIDTH = 5


class TestCollapse:
    @pytest.mark.parametrize("width", [1, 2, 9])
    def test_full_width_is_exact_up_to_square_bases(self, width):
        update = random_deep_core(9, 16, width, 3)
        b, a = update.collapse()
        same_matrix(b @ a, update.dense(), 1e-12)

    def test_tol_chooses_many_ranks_in_these_cases(self):
        update = random_deep_core(17, 10, WIDTH, 3)
        assert len({update.collapse(tol=tol)[0].shape[1] for tol in (0.7, 0.3, 0.1, 1e-2, 0.0)}) >= 4

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("core_rank", [1, 2, 4])
    def test_tol_finds_the_rank_of_a_deficient_core(self, core_rank, dtype):
        update = random_deep_core(17, 10, WIDTH, 3, start=0.0, core_rank=core_rank, dtype=dtype)
        b, a = update.collapse(tol=1e-5)
        assert b.shape[1] == core_rank
        same_matrix(b.double() @ a.double(), update.dense(), max(1e-12, ROUNDING[dtype]))

    def test_zero_factors_keep_one_zero_direction(self):
        update = DeepCore(frame(9, 3), torch.zeros(2, 3, 3, dtype=torch.float64), frame(7, 3))
        b, a = update.collapse(tol=0.5)
        assert (b.shape, a.shape) == ((9, 1), (1, 7))
        assert torch.equal(b @ a, torch.zeros(9, 7, dtype=torch.float64))

    def test_tiny_products_survive(self):
        factors = 1e-12 * gaussian(3, 4, 4, dtype=torch.float32)  # The squares of 1e-36 underflow in float32.
        update = DeepCore(frame(9, 4).float(), factors, frame(7, 4).float())
        b, a = update.collapse(tol=1e-6)
        same_matrix(b.double() @ a.double(), update.dense(), ROUNDING[torch.float32])

    def test_refuses_both_rank_and_tol(self):
        with pytest.raises(ValueError, match=r"rank or tol, not both; got rank=2 and tol=0\.1"):
            random_deep_core(6, 7, 4, 2).collapse(rank=2, tol=0.1)

    @pytest.mark.parametrize("tol", [-0.1, 1.0, float("nan")])
    def test_refuses_a_tol_that_is_no_relative_error(self, tol):
        with pytest.raises(ValueError, match=rf"0 <= tol < 1; got {tol}"):
            random_deep_core(6, 7, 4, 2).collapse(tol=tol)


class TestSingularValues:
    @pytest.mark.parametrize("core_rank", [1, 3])
    def test_of_a_deficient_core_end_at_its_rank(self, core_rank):
        values = random_deep_core(17, 10, WIDTH, 3, start=0.0, core_rank=core_rank).singular_values()
        assert (values[core_rank:] < 1e-13 * values[0]).all()
        assert values[core_rank - 1] > 1e-6 * values[0]

    def test_belong_to_collapsed_directions(self):
        update = random_deep_core(17, 10, WIDTH, 3)
        b, a = update.collapse()
        u, _, vh = torch.linalg.svd(update.dense())
        for k in range(1, WIDTH):
            spans_same_space(b[:, :k], u[:, :k], 1e-10)
            spans_same_space(a[:k].mT, vh[:k].mT, 1e-10)
        orthonormal_columns(b / b.norm(dim=0), 1e-12)
