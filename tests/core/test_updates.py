from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from cases import DEPTHS, DTYPES, ROUNDING, SHAPES, frame, gaussian, random_chain
from corefold.core import DeepCore, PairCore, low_rank_svd, start_product
from laws import applied_in_order, best_error, orthonormal_columns, same_matrix, spans_same_space

WIDTH = 5
SCALES = [0.1, 1e-3, 0.3]


def _dense(chain: DeepCore) -> torch.Tensor:
    return applied_in_order(chain.left, chain.factors, chain.right, chain.start)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_dense_applies_factors_in_order(out, in_, depth, dtype):
    chain = random_chain(out, in_, WIDTH, depth, dtype=dtype)
    assert chain.dense().dtype == dtype
    same_matrix(chain.dense(), _dense(chain), ROUNDING[dtype])


@pytest.mark.parametrize("depth", DEPTHS[1:])
def test_the_order_of_factors_matters(depth):
    chain = random_chain(9, 16, WIDTH, depth)
    turned = DeepCore(chain.left, chain.factors.flip(0), chain.right, chain.start)
    assert (turned.dense() - chain.dense()).norm() > 0.1 * chain.dense().norm()


def test_core_is_the_product_less_the_start():
    chain = random_chain(6, 7, 4, 3, start=0.25)
    first, second, third = chain.factors
    same_matrix(chain.core(), third @ second @ first - 0.25 * torch.eye(4, dtype=torch.float64), 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 3), (0,)])
@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_call_is_a_linear_map(out, in_, batch, dtype):
    chain = random_chain(out, in_, WIDTH, 3, dtype=dtype)
    x = gaussian(*batch, in_, seed=1, dtype=dtype)
    assert chain(x).dtype == dtype
    same_matrix(chain(x), x.double() @ _dense(chain).mT, ROUNDING[dtype])


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_gradients_flow_to_every_part(start):
    chain = random_chain(5, 4, 3, 3)
    x = gaussian(2, 4, seed=1)
    parts = [part.requires_grad_() for part in (chain.left, chain.factors, chain.right, x)]
    assert torch.autograd.gradcheck(
        lambda left, factors, right, x: DeepCore(left, factors, right, start)(x), parts
    )


class TestAtStart:
    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("depth", DEPTHS)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_is_exactly_zero(self, dtype, depth, scale):
        left, right = frame(17, WIDTH, 1).to(dtype), frame(10, WIDTH, 2).to(dtype)
        chain = DeepCore.at_start(left, right, depth, scale)
        assert chain.factors.shape == (depth, WIDTH, WIDTH)
        for factor in chain.factors:
            assert torch.equal(factor, scale * torch.eye(WIDTH, dtype=dtype))
        assert torch.equal(chain.dense(), torch.zeros(17, 10, dtype=dtype))
        assert torch.equal(chain(gaussian(3, 10, dtype=dtype)), torch.zeros(3, 17, dtype=dtype))

    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_collapses_to_exactly_zero(self, dtype, scale):
        left, right = frame(17, WIDTH, 1).to(dtype), frame(10, WIDTH, 2).to(dtype)
        chain = DeepCore.at_start(left, right, 3, scale)
        assert not chain.singular_values().any()
        for kept, (b, a) in (
            (WIDTH, chain.collapse()),
            (1, chain.collapse(tol=0.1)),
            (1, chain.collapse(tol=0.0)),
        ):
            assert (b.shape, a.shape) == ((17, kept), (kept, 10))
            assert not b.any()
            assert not a.any()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_without_the_offset_is_the_small_start(self, dtype):
        left, right = frame(17, WIDTH, 1).to(dtype), frame(10, WIDTH, 2).to(dtype)
        chain = DeepCore(left, DeepCore.at_start(left, right, 3, 0.1).factors, right)
        same_matrix(chain.dense(), 1e-3 * frame(17, WIDTH, 1) @ frame(10, WIDTH, 2).mT, ROUNDING[dtype])

    def test_trained_factors_leave_zero(self):
        left, right = frame(17, WIDTH, 1), frame(10, WIDTH, 2)
        chain = DeepCore.at_start(left, right, 3, 0.1)
        moved = DeepCore(left, chain.factors + 0.01 * gaussian(3, WIDTH, WIDTH), right, chain.start)
        same_matrix(moved.dense(), _dense(moved), 1e-12)
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
        chain = DeepCore.from_svd(u.to(dtype), s.to(dtype), v.to(dtype), depth, scale)
        assert chain.dense().dtype == dtype
        assert chain.start == start_product(scale, depth, dtype)
        same_matrix(chain.dense(), u * s @ v.mT, ROUNDING[dtype])
        same_matrix(chain.singular_values(), s, ROUNDING[dtype])

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_factors_are_equal_and_balanced(self, depth):
        u, v = frame(17, WIDTH, 1), frame(10, WIDTH, 2)
        s = torch.tensor(self.VALUES, dtype=torch.float64)
        factors = DeepCore.from_svd(u, s, v, depth, 0.1).factors
        assert factors.shape == (depth, WIDTH, WIDTH)
        for factor in factors:
            assert torch.equal(factor, factors[0])
            assert torch.equal(factor, factor.diagonal().diag())
        assert (
            factors[0].diagonal() > 0.999 * 0.1
        ).all()  # a zero value starts where an untrained chain does

    def test_takes_any_chain_back(self):
        chain = random_chain(9, 16, WIDTH, 3)
        u, s, v = low_rank_svd(chain.left @ chain.core(), chain.right)
        same_matrix(DeepCore.from_svd(u, s, v, 2, 0.3).dense(), _dense(chain), 1e-13)


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


class TestCollapse:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("depth", DEPTHS)
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_full_width_is_exact(self, out, in_, depth, dtype):
        chain = random_chain(out, in_, WIDTH, depth, dtype=dtype)
        b, a = chain.collapse()
        assert (b.shape, a.shape) == ((out, WIDTH), (WIDTH, in_))
        assert b.dtype == a.dtype == dtype
        assert b.is_contiguous()
        assert a.is_contiguous()
        same_matrix(b.double() @ a.double(), _dense(chain), max(1e-12, ROUNDING[dtype]))

    @pytest.mark.parametrize("width", [1, 2, 9])
    def test_full_width_is_exact_up_to_square_bases(self, width):
        chain = random_chain(9, 16, width, 3)
        b, a = chain.collapse()
        same_matrix(b @ a, _dense(chain), 1e-12)

    @pytest.mark.parametrize("rank", range(1, WIDTH + 1))
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_rank_gives_the_least_error(self, out, in_, rank):
        chain = random_chain(out, in_, WIDTH, 3)
        b, a = chain.collapse(rank=rank)
        assert (b.shape, a.shape) == ((out, rank), (rank, in_))
        dense = _dense(chain)
        error = (dense - b @ a).norm().item()
        assert error == pytest.approx(best_error(dense, rank), rel=1e-10, abs=1e-12 * dense.norm().item())

    @pytest.mark.parametrize("tol", [0.7, 0.3, 0.1, 0.03, 1e-2, 1e-6, 1e-10])
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_tol_keeps_the_fewest_directions(self, out, in_, seed, tol):
        chain = random_chain(out, in_, WIDTH, 3, seed=seed)
        b, a = chain.collapse(tol=tol)
        dense, kept = _dense(chain), b.shape[1]
        allowed = tol * dense.norm().item()
        assert (dense - b @ a).norm().item() <= allowed
        assert kept == 1 or best_error(dense, kept - 1) > allowed

    def test_tol_chooses_many_ranks_in_these_cases(self):
        ranks = {
            random_chain(17, 10, WIDTH, 3).collapse(tol=tol)[0].shape[1] for tol in (0.7, 0.3, 0.1, 1e-2, 0.0)
        }
        assert len(ranks) >= 4

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("core_rank", [1, 2, 4])
    def test_tol_finds_the_rank_of_a_deficient_core(self, core_rank, dtype):
        chain = random_chain(17, 10, WIDTH, 3, start=0.0, core_rank=core_rank, dtype=dtype)
        b, a = chain.collapse(tol=1e-5)
        assert b.shape[1] == core_rank
        same_matrix(b.double() @ a.double(), _dense(chain), max(1e-12, ROUNDING[dtype]))

    def test_zero_factors_keep_one_zero_direction(self):
        chain = DeepCore(frame(9, 3), torch.zeros(2, 3, 3, dtype=torch.float64), frame(7, 3))
        b, a = chain.collapse(tol=0.5)
        assert (b.shape, a.shape) == ((9, 1), (1, 7))
        assert torch.equal(b @ a, torch.zeros(9, 7, dtype=torch.float64))

    def test_tiny_products_survive(self):
        factors = 1e-12 * gaussian(3, 4, 4, dtype=torch.float32)  # the squares of 1e-36 underflow in float32
        chain = DeepCore(frame(9, 4).float(), factors, frame(7, 4).float())
        b, a = chain.collapse(tol=1e-6)
        same_matrix(b.double() @ a.double(), _dense(chain), ROUNDING[torch.float32])

    def test_refuses_both_rank_and_tol(self):
        with pytest.raises(ValueError, match=r"rank or tol, not both; got rank=2 and tol=0\.1"):
            random_chain(6, 7, 4, 2).collapse(rank=2, tol=0.1)

    @pytest.mark.parametrize("rank", [0, -1, 5])
    def test_refuses_a_rank_outside_the_width(self, rank):
        with pytest.raises(ValueError, match=rf"between 1 and the update's 4; got {rank}"):
            random_chain(6, 7, 4, 2).collapse(rank=rank)

    @pytest.mark.parametrize("tol", [-0.1, 1.0, float("nan")])
    def test_refuses_a_tol_that_is_no_relative_error(self, tol):
        with pytest.raises(ValueError, match=rf"0 <= tol < 1; got {tol}"):
            random_chain(6, 7, 4, 2).collapse(tol=tol)


class TestSingularValues:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("depth", DEPTHS)
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_are_those_of_the_dense_matrix(self, out, in_, depth, dtype):
        chain = random_chain(out, in_, WIDTH, depth, dtype=dtype)
        values = chain.singular_values()
        assert values.dtype == dtype
        same_matrix(values, torch.linalg.svdvals(_dense(chain))[:WIDTH], ROUNDING[dtype])
        assert (values.diff() <= 0).all()

    @pytest.mark.parametrize("core_rank", [1, 3])
    def test_of_a_deficient_core_end_at_its_rank(self, core_rank):
        values = random_chain(17, 10, WIDTH, 3, start=0.0, core_rank=core_rank).singular_values()
        assert (values[core_rank:] < 1e-13 * values[0]).all()
        assert values[core_rank - 1] > 1e-6 * values[0]

    def test_belong_to_collapsed_directions(self):
        chain = random_chain(17, 10, WIDTH, 3)
        b, a = chain.collapse()
        u, _, vh = torch.linalg.svd(_dense(chain))
        for k in range(1, WIDTH):
            spans_same_space(b[:, :k], u[:, :k], 1e-10)
            spans_same_space(a[:k].mT, vh[:k].mT, 1e-10)
        orthonormal_columns(b / b.norm(dim=0), 1e-12)


class TestShapesAreChecked:
    """The import hook of conftest.py is on: a wrong shape raises in tests."""

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


class TestNarrow:
    """A core `P Q^T` of fewer directions than the bases have columns."""

    @staticmethod
    def chain(out=9, in_=16, width=6, rank=2, dtype=torch.float64):
        left, right = gaussian(out, width), gaussian(in_, width, seed=1)
        return PairCore(left.to(dtype), gaussian(2, width, rank, seed=2).to(dtype), right.to(dtype))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_is_the_dense_product(self, out, in_, dtype):
        chain = self.chain(out, in_, dtype=dtype)
        q, p = chain.factors.double()
        expected = chain.left.double() @ p @ q.mT @ chain.right.double().mT
        x = gaussian(3, in_, seed=4, dtype=dtype)
        same_matrix(chain.dense(), expected, ROUNDING[dtype])
        same_matrix(chain(x), x.double() @ expected.mT, ROUNDING[dtype])
        same_matrix(chain.core(), p @ q.mT, ROUNDING[dtype])

    @pytest.mark.parametrize("rank", [1, 2, 5])
    def test_collapses_to_its_own_rank(self, rank):
        chain = self.chain(rank=rank)
        b, a = chain.collapse()
        assert (chain.rank, b.shape, a.shape) == (rank, (9, rank), (rank, 16))
        same_matrix(b @ a, chain.dense(), 1e-12)
        assert chain.singular_values().shape == (rank,)
        with pytest.raises(ValueError, match=f"between 1 and the update's {rank}; got {rank + 1}"):
            chain.collapse(rank=rank + 1)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_starts_at_zero_with_an_orthonormal_choice(self, dtype):
        left, right = frame(17, WIDTH, 1).to(dtype), frame(10, WIDTH, 2).to(dtype)
        chain = PairCore.at_start(left, right, 2, torch.Generator().manual_seed(3))
        assert torch.equal(chain.dense(), torch.zeros(17, 10, dtype=dtype))
        assert not chain.factors[1].any()
        orthonormal_columns(chain.factors[0], ROUNDING[dtype])
        again = PairCore.at_start(left, right, 2, torch.Generator().manual_seed(3))
        assert torch.equal(chain.factors, again.factors)

    def test_gradients_flow_to_every_part(self):
        chain = self.chain(5, 4, 3, 2)
        parts = [
            part.requires_grad_() for part in (chain.left, chain.factors, chain.right, gaussian(2, 4, seed=1))
        ]
        assert torch.autograd.gradcheck(
            lambda left, factors, right, x: PairCore(left, factors, right)(x), parts
        )
