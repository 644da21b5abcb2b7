from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cases import frame, gaussian, generator, matrix_with_spectrum
from corefold.core import GradientSketch, bases_from_gradient, bases_from_singular_vectors
from laws import angle_into, best_error, orthonormal_columns, same_matrix, spans_same_space

SHAPES = [(120, 80), (80, 120), (95, 95)]
DTYPES = [torch.float64, torch.float32]
Batch = tuple[Tensor, Tensor]


def _empty(out: int, in_: int, size: int, dtype: torch.dtype = torch.float64) -> GradientSketch:
    return GradientSketch.empty(out, in_, size, torch.zeros(1, dtype=dtype))


def _sketch(batches: list[Batch], size: int, dtype: torch.dtype = torch.float64) -> GradientSketch:
    stream, (g, x) = generator(99), batches[0]
    sketch = _empty(g.shape[-1], x.shape[-1], size, dtype)
    for g, x in batches:
        sketch = sketch.add(g, x, stream)
    return sketch


def _total(batches: list[Batch]) -> Tensor:
    return sum(g.double().mT @ x.double() for g, x in batches)


def _dense(sketch: GradientSketch) -> Tensor:
    return sketch.left.double() * sketch.values.double() @ sketch.right.double().mT


def _worst_angle(sketch: GradientSketch, total: Tensor, k: int) -> float:
    u, _, vh = torch.linalg.svd(total)
    return max(angle_into(sketch.left[:, :k], u[:, :k]), angle_into(sketch.right[:, :k], vh[:k].mT))


def _low_rank_batches(out: int, in_: int, rank: int, count: int, tokens: int = 40) -> list[Batch]:
    """All batches in one pair of spaces, so that every gradient and their sum have this rank."""
    u, v, stream = frame(out, rank, 1), frame(in_, rank, 2), generator(3)
    return [
        (gaussian(tokens, rank, seed=stream) @ u.mT, gaussian(tokens, rank, seed=stream) @ v.mT)
        for _ in range(count)
    ]


def _signal_and_noise(
    out: int, in_: int, k: int, count: int, strength: float, seed: int, tokens: int = 64
) -> Iterator[Batch]:
    """`k` directions common to all batches over noise of full rank, whose norm is about 200 in each batch."""
    stream = generator(seed)
    u, v = frame(out, k, stream), frame(in_, k, stream)
    for _ in range(count):
        noise_g, noise_x = gaussian(tokens, out, seed=stream), gaussian(tokens, in_, seed=stream)
        sizes = strength * torch.linspace(2, 1, k, dtype=torch.float64)
        yield torch.cat([noise_g, sizes[:, None] * u.mT]), torch.cat([noise_x, v.mT])


class TestWhatFitsIsExact:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("count", [1, 5])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_up_to_size_directions(self, out, in_, count, dtype):
        batches = _low_rank_batches(out, in_, 6, count)
        sketch = _sketch(batches, 9, dtype)
        rtol = 1e-10 if dtype == torch.float64 else 1e-5
        total = _total(batches)
        same_matrix(_dense(sketch), total, rtol)
        same_matrix(sketch.values[:6], torch.linalg.svdvals(total)[:6], rtol)
        assert sketch.rank() == 6
        # An angle is lost as many times more as the largest value exceeds the smallest.
        spans_same_space(sketch.left[:, :6], total, 10 * rtol)
        spans_same_space(sketch.right[:, :6], total.mT, 10 * rtol)

    def test_fewer_tokens_than_size(self):
        batches = [(gaussian(2, 30, seed=b), gaussian(2, 20, seed=b + 50)) for b in range(3)]
        sketch = _sketch(batches, 10)
        assert sketch.rank() == 6
        same_matrix(_dense(sketch), _total(batches), 1e-10)

    @pytest.mark.parametrize(("out", "in_"), [(9, 5), (5, 9), (7, 7), (1, 4)])
    def test_size_of_the_whole_matrix(self, out, in_):
        batches = [(gaussian(30, out, seed=b), gaussian(30, in_, seed=b + 50)) for b in range(4)]
        sketch = _sketch(batches, 64)
        assert sketch.values.shape == (min(out, in_),)
        same_matrix(_dense(sketch), _total(batches), 1e-10)

    def test_batches_that_cancel(self):
        ((g, x),) = _low_rank_batches(30, 20, 3, 1)
        ((h, y),) = [(gaussian(5, 30, seed=7), gaussian(5, 20, seed=8))]
        same_matrix(_dense(_sketch([(g, x), (h, y), (-g, x)], 12)), h.mT @ y, 1e-10)


class TestAnyNumberOfTokens:
    """Few tokens are multiplied as they come, many as one dense matrix: the same sketch."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("tokens", [1, 3, 40, 3000])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_what_fits_is_exact(self, out, in_, tokens, dtype):
        batches = _low_rank_batches(out, in_, 6, 2, tokens)
        sketch = _sketch(batches, 9, dtype)
        same_matrix(_dense(sketch), _total(batches), 1e-10 if dtype == torch.float64 else 1e-5)
        assert sketch.rank() == min(6, 2 * tokens)
        for side in (sketch.left, sketch.right):
            orthonormal_columns(side, 1e-12 if dtype == torch.float64 else 1e-5)

    @pytest.mark.parametrize("tokens", [30, 3000])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_what_does_not_fit_has_the_largest_values(self, out, in_, tokens):
        stream = generator(4)
        dense = matrix_with_spectrum(out, in_, [0.5**i for i in range(30)], seed=5)
        mix = frame(tokens, 30, stream)
        u, s, vh = torch.linalg.svd(dense, full_matrices=False)
        batch = (mix @ (u[:, :30] * s[:30]).mT, mix @ vh[:30])
        sketch = _sketch([batch], 12)
        same_matrix(sketch.values[:8], s[:8], 1e-8)
        assert _worst_angle(sketch, dense, 8) < 1e-6
        assert (dense - _dense(sketch)).norm().item() < 1.06 * best_error(dense, 12)

    @pytest.mark.parametrize("tokens", [5, 3000])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_repeated_values_share_a_space(self, out, in_, tokens):
        u, v, mix = frame(out, 5, 1), frame(in_, 5, 2), frame(tokens, 5, 3)
        values = torch.tensor([3, 3, 3, 1, 1], dtype=torch.float64)
        batch = (mix @ (u * values).mT, mix @ v.mT)
        sketch = _sketch([batch], 9)
        same_matrix(_dense(sketch), _total([batch]), 1e-10)
        spans_same_space(sketch.left[:, :3], u[:, :3], 1e-8)
        spans_same_space(sketch.right[:, :3], v[:, :3], 1e-8)

    def test_many_batches_of_few_tokens_are_one_of_many(self):
        ((g, x),) = _low_rank_batches(60, 90, 5, 1, 3000)
        apart = _sketch(list(zip(g.split(30), x.split(30), strict=True)), 8)
        together = _sketch([(g, x)], 8)
        same_matrix(_dense(apart), _dense(together), 1e-10)
        same_matrix(apart.left[:, :5], together.left[:, :5], 1e-8)

    @pytest.mark.parametrize("tokens", [7, 3000])
    def test_sparse_inputs(self, tokens):
        stream = generator(6)
        ids = torch.randint(50, (2, tokens), generator=stream)
        batches = [(gaussian(tokens, 20, seed=stream), torch.eye(50).double()[one]) for one in ids]
        sparse = _sketch([(g, x.to_sparse()) for g, x in batches], 20)
        same_matrix(_dense(sparse), _total(batches), 1e-10)


class TestSpectralGap:
    @pytest.mark.parametrize("count", [1, 4, 16])
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_angles_under_a_thousandth(self, out, in_, seed, count):
        batches = list(_signal_and_noise(out, in_, 4, count, 2e3, seed))
        total = _total(batches)
        values = torch.linalg.svdvals(total)
        assert 0.01 < values[4] / values[3] < 0.12  # a gap, and still noise enough to be truncated
        sketch = _sketch(batches, 2 * 8 + 8, torch.float32)  # as for an adapter of r = 8
        assert _worst_angle(sketch, total, 4) < 1e-3
        same_matrix(sketch.values[:4], values[:4], 1e-4)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_one_batch_needs_little_gap(self, out, in_, seed):
        batches = list(_signal_and_noise(out, in_, 4, 1, 600, seed))
        total = _total(batches)
        values = torch.linalg.svdvals(total)
        assert 0.25 < values[4] / values[3] < 0.4
        sketch = _sketch(batches, 24, torch.float32)
        assert _worst_angle(sketch, total, 4) < 1e-3
        same_matrix(sketch.values[:4], values[:4], 1e-4)

    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_without_a_gap_one_batch_loses_little_more_than_it_must(self, out, in_):
        batches = [(gaussian(200, out, seed=1), gaussian(200, in_, seed=2))]
        total = _total(batches)
        assert (total - _dense(_sketch(batches, 24))).norm().item() < 1.06 * best_error(total, 24)

    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_bases_from_the_sketch_follow_the_dense_gradient(self, out, in_):
        batches = list(_signal_and_noise(out, in_, 4, 8, 8e3, 0))
        sketch, total = _sketch(batches, 24, torch.float32), _total(batches)
        k = sketch.rank()
        streamed = bases_from_singular_vectors(
            sketch.left[:, :k], sketch.right[:, :k], 8, generator=generator(5)
        )
        dense = bases_from_gradient(total.float(), 8, generator=generator(5))
        assert angle_into(streamed[0][:, 4:], dense[0][:, 4:]) < 1e-3
        assert angle_into(streamed[1][:, :4], dense[1][:, :4]) < 1e-3

    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_signal_below_the_noise_of_every_batch(self, out, in_):
        batches = list(_signal_and_noise(out, in_, 4, 128, 60, 0))
        noise = torch.linalg.svdvals(batches[0][0][:-4].mT @ batches[0][1][:-4])
        assert noise[4] > 120  # the strongest signal would rank below fourth in a batch
        total = _total(batches)
        values = torch.linalg.svdvals(total)
        gap = (values[4] / values[3]).item()
        assert gap > 0.15
        # Truncation drops part of the signal with the noise: the angle is of second order in the gap's ratio.
        assert _worst_angle(_sketch(batches, 24, torch.float32), total, 4) < gap**2

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_columns_stay_orthonormal(self, dtype):
        sketch = _sketch(list(_signal_and_noise(120, 80, 4, 50, 8e3, 0)), 24, dtype)
        for side in (sketch.left, sketch.right):
            orthonormal_columns(side, 1e-12 if dtype == torch.float64 else 1e-5)
        assert (sketch.values.diff() <= 0).all()


class TestInputs:
    @pytest.mark.parametrize("tokens", [40, 1500])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_low_precision_is_summed_in_float32(self, dtype, tokens):
        batches = [(g.to(dtype), x.to(dtype)) for g, x in _low_rank_batches(40, 30, 3, 4, tokens)]
        sketch = GradientSketch.empty(40, 30, 30, torch.zeros(1, dtype=dtype))
        for g, x in batches:
            sketch = sketch.add(g, x, generator())
        assert {part.dtype for part in (sketch.left, sketch.values, sketch.right)} == {torch.float32}
        same_matrix(_dense(sketch), _total(batches), 1e-5)

    def test_batch_dimensions_are_tokens(self):
        g, x = gaussian(2, 3, 4, 30, seed=1), gaussian(2, 3, 4, 20, seed=2)
        shaped = _empty(30, 20, 8).add(g, x, generator())
        flat = _empty(30, 20, 8).add(g.reshape(24, 30), x.reshape(24, 20), generator())
        assert shaped.tokens == flat.tokens == 24
        same_matrix(_dense(shaped), _dense(flat), 1e-12)

    def test_tokens_add_up(self):
        sketch = _empty(9, 7, 3)
        assert sketch.tokens == 0
        for tokens, seen in ((5, 5), (1, 6), (11, 17)):
            sketch = sketch.add(gaussian(tokens, 9), gaussian(tokens, 7, seed=1))
            assert sketch.tokens == seen

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_zero_gradient_carries_nothing(self, dtype):
        empty = _empty(9, 7, 3, dtype)
        assert empty.rank() == 0
        zero = empty.add(torch.zeros(5, 9), gaussian(5, 7))
        assert zero.rank() == 0
        assert zero.tokens == 5
        assert not _dense(zero).any()

    @pytest.mark.parametrize("before", [True, False])
    def test_a_zero_batch_changes_nothing(self, before):
        g, x = gaussian(4, 9), gaussian(4, 7, seed=1)
        zero = (torch.zeros_like(g), x)
        sketch = _sketch([zero, (g, x)] if before else [(g, x), zero], 5)
        assert sketch.rank() == 4
        same_matrix(_dense(sketch), g.mT @ x, 1e-12)

    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_carried_does_not_depend_on_scale(self, scale):
        batches = [(scale * g, x) for g, x in _low_rank_batches(30, 20, 3, 2)]
        assert _sketch(batches, 8, torch.float32).rank() == 3

    def test_a_seed_means_the_same_sketch(self):
        batches = list(_signal_and_noise(30, 20, 2, 3, 300, 0))
        one, again = _sketch(batches, 6), _sketch(batches, 6)
        assert torch.equal(one.left, again.left)
        assert torch.equal(one.right, again.right)

    def test_adding_leaves_the_sketch_before_as_it_was(self):
        before = _empty(9, 7, 3).add(gaussian(5, 9), gaussian(5, 7), generator())
        held = [part.clone() for part in (before.left, before.values, before.right)]
        before.add(gaussian(5, 9, seed=1), gaussian(5, 7, seed=2), generator())
        for part, then in zip((before.left, before.values, before.right), held, strict=True):
            assert torch.equal(part, then)


class TestMerge:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("count", [1, 2, 5])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_what_fits_is_the_sum(self, out, in_, count, dtype):
        batches = _low_rank_batches(out, in_, 6, count)
        merged = GradientSketch.merge([_sketch([batch], 9, dtype) for batch in batches])
        same_matrix(_dense(merged), _total(batches), 1e-10 if dtype == torch.float64 else 1e-5)
        assert merged.left.dtype == dtype
        assert merged.tokens == 40 * count
        assert merged.rank() == 6

    @pytest.mark.parametrize(("out", "in_"), [*SHAPES, (9, 5), (5, 9), (7, 7)])
    def test_the_rest_is_the_best_of_its_size(self, out, in_):
        parts = [_sketch([(gaussian(30, out, seed=b), gaussian(30, in_, seed=b + 50))], 4) for b in range(3)]
        merged = GradientSketch.merge(parts)
        total = sum(map(_dense, parts))
        same_matrix(merged.values, torch.linalg.svdvals(total)[:4], 1e-12)
        assert (total - _dense(merged)).norm().item() == pytest.approx(best_error(total, 4), rel=1e-9)
        orthonormal_columns(merged.left, 1e-12)
        orthonormal_columns(merged.right, 1e-12)

    def test_sketches_of_nothing_add_nothing(self):
        empty, some = (
            _empty(9, 7, 3),
            _empty(9, 7, 3).add(gaussian(2, 9), gaussian(2, 7, seed=1), generator()),
        )
        same_matrix(_dense(GradientSketch.merge([empty, some, empty])), _dense(some), 1e-12)
        assert GradientSketch.merge([empty, empty]).rank() == 0

    def test_signs_do_not_depend_on_the_way(self):
        # Bases pair random columns with these, so another sign would mean another chain.
        batches = _low_rank_batches(30, 20, 3, 2)
        together, apart = (
            _sketch(batches, 5),
            GradientSketch.merge([_sketch([batch], 5) for batch in batches]),
        )
        same_matrix(together.left[:, :3], apart.left[:, :3], 1e-10)
        same_matrix(together.right[:, :3], apart.right[:, :3], 1e-10)
        assert (together.left.gather(0, together.left.abs().argmax(0, keepdim=True)) > 0).all()


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, Tensor):
                self.numel = max(self.numel, part.numel())
        return result


class TestMemory:
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_no_more_directions_are_held_than_there_are(self, out, in_):
        empty = _empty(out, in_, 1000)
        assert (empty.left.shape, empty.right.shape) == ((out, min(out, in_)), (in_, min(out, in_)))

    @pytest.mark.parametrize("count", [0, 1, 5])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_what_is_held(self, out, in_, count):
        size = 6
        sketch = _empty(out, in_, size, torch.float32)
        for batch in _signal_and_noise(out, in_, 2, count, 8e3, 0):
            sketch = sketch.add(*batch, generator())
        parts = (sketch.left, sketch.values, sketch.right)
        assert sum(part.numel() for part in parts) == (out + in_ + 1) * size
        storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
        assert sum(storages.values()) == 4 * (out + in_ + 1) * size

    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_the_dense_gradient_is_never_formed(self, out, in_):
        size, tokens = 6, 20
        batches = [(gaussian(tokens, out, seed=b), gaussian(tokens, in_, seed=b + 9)) for b in range(2)]
        with _Largest() as largest:
            _sketch(batches, size)
        assert 0 < largest.numel <= tokens * max(out, in_)

    @pytest.mark.parametrize("size", [6, 24])
    @pytest.mark.parametrize("tokens", [10, 60, 400])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_a_dense_gradient_is_at_most_twice_the_larger_factor(self, out, in_, tokens, size):
        batches = [(gaussian(tokens, out, seed=b), gaussian(tokens, in_, seed=b + 9)) for b in range(2)]
        with _Largest() as largest:
            _sketch(batches, size)
        assert largest.numel <= 2 * (tokens + size) * max(out, in_)
        assert largest.numel >= out * in_ or tokens < 400  # where it is small, it is formed
