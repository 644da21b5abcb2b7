"""The deep core: its product, its start, and its form from a singular value decomposition."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from cases import DEPTHS, DTYPES, ROUNDING, SHAPES, frame, gaussian
from core.updates.random_updates import random_deep_core
from corefold.core import DeepCore, low_rank_svd, start_product
from laws import applied_in_order, same_matrix

WIDTH = 5
SCALES = [0.1, 1e-3, 0.3]


def in_order(update: DeepCore) -> torch.Tensor:
    return applied_in_order(update.left, update.factors, update.right, update.start)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_dense_applies_factors_in_order(out, in_, depth, dtype):
    update = random_deep_core(out, in_, WIDTH, depth, dtype=dtype)
    assert update.rank == WIDTH
    same_matrix(update.dense(), in_order(update), ROUNDING[dtype])


@pytest.mark.parametrize("depth", DEPTHS[1:])
def test_the_order_of_factors_matters(depth):
    update = random_deep_core(9, 16, WIDTH, depth)
    turned = DeepCore(update.left, update.factors.flip(0), update.right, update.start)
    assert (turned.dense() - update.dense()).norm() > 0.1 * update.dense().norm()


def test_core_is_the_product_less_the_start():
    update = random_deep_core(6, 7, 4, 3, start=0.25)
    first, second, third = update.factors
    same_matrix(update.core(), third @ second @ first - 0.25 * torch.eye(4, dtype=torch.float64), 1e-14)


class TestAtStart:
    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("depth", DEPTHS)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_factors_are_multiples_of_the_identity(self, dtype, depth, scale):
        left, right = frame(17, WIDTH, 1).to(dtype), frame(10, WIDTH, 2).to(dtype)
        update = DeepCore.at_start(left, right, depth, scale)
        assert update.factors.shape == (depth, WIDTH, WIDTH)
        for factor in update.factors:
            assert torch.equal(factor, scale * torch.eye(WIDTH, dtype=dtype))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_without_the_offset_is_the_small_start(self, dtype):
        left, right = frame(17, WIDTH, 1).to(dtype), frame(10, WIDTH, 2).to(dtype)
        update = DeepCore(left, DeepCore.at_start(left, right, 3, 0.1).factors, right)
        same_matrix(update.dense(), 1e-3 * frame(17, WIDTH, 1) @ frame(10, WIDTH, 2).mT, ROUNDING[dtype])

    def test_trained_factors_leave_zero(self):
        left, right = frame(17, WIDTH, 1), frame(10, WIDTH, 2)
        update = DeepCore.at_start(left, right, 3, 0.1)
        moved = DeepCore(left, update.factors + 0.01 * gaussian(3, WIDTH, WIDTH), right, update.start)
        same_matrix(moved.dense(), in_order(moved), 1e-12)
        assert moved.dense().norm() > 1e-5

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("depth", DEPTHS)
    def test_start_product_is_the_power(self, depth, dtype):
        assert start_product(0.3, depth, dtype) == pytest.approx(
            0.3**depth, rel=depth * torch.finfo(dtype).eps
        )


class TestFromSvd:
    VALUES = (5.0, 2.0, 1.0, 1e-3, 0.0)

    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("depth", DEPTHS)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_is_the_matrix(self, dtype, depth, scale):
        u, v = frame(17, WIDTH, 1), frame(10, WIDTH, 2)
        s = torch.tensor(self.VALUES, dtype=torch.float64)
        update = DeepCore.from_svd(u.to(dtype), s.to(dtype), v.to(dtype), depth, scale)
        assert update.dense().dtype == dtype
        assert update.start == start_product(scale, depth, dtype)
        same_matrix(update.dense(), u * s @ v.mT, ROUNDING[dtype])
        same_matrix(update.singular_values(), s, ROUNDING[dtype])

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_factors_are_equal_and_balanced(self, depth):
        u, v = frame(17, WIDTH, 1), frame(10, WIDTH, 2)
        s = torch.tensor(self.VALUES, dtype=torch.float64)
        factors = DeepCore.from_svd(u, s, v, depth, 0.1).factors
        assert factors.shape == (depth, WIDTH, WIDTH)
        for factor in factors:
            assert torch.equal(factor, factors[0])
            assert torch.equal(factor, factor.diagonal().diag())
        # A direction of value zero starts where one of an untrained core does.
        assert (factors[0].diagonal() > 0.999 * 0.1).all()

    def test_takes_any_deep_core_back(self):
        update = random_deep_core(9, 16, WIDTH, 3)
        u, s, v = low_rank_svd(update.left @ update.core(), update.right)
        same_matrix(DeepCore.from_svd(u, s, v, 2, 0.3).dense(), in_order(update), 1e-13)


class TestShapesAreChecked:
    """The import hook of conftest.py is on, so a wrong shape raises in tests."""

    @pytest.mark.parametrize(
        ("left", "factors", "right"),
        [((6, 4), (2, 3, 3), (7, 3)), ((6, 3), (2, 4, 3), (7, 3)), ((6, 3), (3, 3), (7, 3))],
    )
    def test_in_a_dataclass(self, left, factors, right):
        with pytest.raises(TypeCheckError):
            DeepCore(torch.ones(left), torch.ones(factors), torch.ones(right))

    def test_in_a_method(self):
        with pytest.raises(TypeCheckError):
            DeepCore.at_start(torch.ones(6, 3), torch.ones(7, 4), 2, 0.1)
