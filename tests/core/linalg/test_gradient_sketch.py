"""The streaming sketch of a gradient against the dense float64 sum."""

from __future__ import annotations

import pytest
import torch

from cases import frame, gaussian, generator, matrix_with_spectrum
from core.linalg.gradient_batches import (
    DTYPES,
    SHAPES,
    dense_of,
    empty_sketch,
    low_rank_batches,
    signal_and_noise,
    sketch_of,
    summed,
    worst_angle,
)
from corefold.core import GradientSketch, bases_from_gradient, bases_from_singular_vectors
from laws import angle_into, best_error, orthonormal_columns, same_matrix, spans_same_space


class TestWhatFitsIsExact:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("count", [1, 5])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_up_to_size_directions(self, out, in_, count, dtype):
        batches = low_rank_batches(out, in_, 6, count)
        sketch = sketch_of(batches, 9, dtype)
        rtol = 1e-10 if dtype == torch.float64 else 1e-5
        total = summed(batches)
        same_matrix(dense_of(sketch), total, rtol)
        same_matrix(sketch.values[:6], torch.linalg.svdvals(total)[:6], rtol)
        assert sketch.rank() == 6
        # An angle is lost as many times more as the largest value exceeds the smallest.
        spans_same_space(sketch.left[:, :6], total, 10 * rtol)
        spans_same_space(sketch.right[:, :6], total.mT, 10 * rtol)

    def test_fewer_tokens_than_size(self):
        batches = [(gaussian(2, 30, seed=b), gaussian(2, 20, seed=b + 50)) for b in range(3)]
        sketch = sketch_of(batches, 10)
        assert sketch.rank() == 6
        same_matrix(dense_of(sketch), summed(batches), 1e-10)

    @pytest.mark.parametrize(("out", "in_"), [(9, 5), (5, 9), (7, 7), (1, 4)])
    def test_size_of_the_whole_matrix(self, out, in_):
        batches = [(gaussian(30, out, seed=b), gaussian(30, in_, seed=b + 50)) for b in range(4)]
        sketch = sketch_of(batches, 64)
        assert sketch.values.shape == (min(out, in_),)
        same_matrix(dense_of(sketch), summed(batches), 1e-10)

    def test_batches_that_cancel(self):
        ((g, x),) = low_rank_batches(30, 20, 3, 1)
        ((h, y),) = [(gaussian(5, 30, seed=7), gaussian(5, 20, seed=8))]
        same_matrix(dense_of(sketch_of([(g, x), (h, y), (-g, x)], 12)), h.mT @ y, 1e-10)


class TestAnyNumberOfTokens:
    """Few tokens are multiplied as they come, many as one dense matrix: the same sketch."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("tokens", [1, 3, 40, 3000])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_what_fits_is_exact(self, out, in_, tokens, dtype):
        batches = low_rank_batches(out, in_, 6, 2, tokens)
        sketch = sketch_of(batches, 9, dtype)
        same_matrix(dense_of(sketch), summed(batches), 1e-10 if dtype == torch.float64 else 1e-5)
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
        sketch = sketch_of([batch], 12)
        same_matrix(sketch.values[:8], s[:8], 1e-8)
        assert worst_angle(sketch, dense, 8) < 1e-6
        assert (dense - dense_of(sketch)).norm().item() < 1.06 * best_error(dense, 12)

    @pytest.mark.parametrize("tokens", [5, 3000])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_repeated_values_share_a_space(self, out, in_, tokens):
        u, v, mix = frame(out, 5, 1), frame(in_, 5, 2), frame(tokens, 5, 3)
        values = torch.tensor([3, 3, 3, 1, 1], dtype=torch.float64)
        batch = (mix @ (u * values).mT, mix @ v.mT)
        sketch = sketch_of([batch], 9)
        same_matrix(dense_of(sketch), summed([batch]), 1e-10)
        spans_same_space(sketch.left[:, :3], u[:, :3], 1e-8)
        spans_same_space(sketch.right[:, :3], v[:, :3], 1e-8)

    def test_many_batches_of_few_tokens_are_one_of_many(self):
        ((g, x),) = low_rank_batches(60, 90, 5, 1, 3000)
        apart = sketch_of(list(zip(g.split(30), x.split(30), strict=True)), 8)
        together = sketch_of([(g, x)], 8)
        same_matrix(dense_of(apart), dense_of(together), 1e-10)
        same_matrix(apart.left[:, :5], together.left[:, :5], 1e-8)

    @pytest.mark.parametrize("tokens", [7, 3000])
    def test_sparse_inputs(self, tokens):
        stream = generator(6)
        ids = torch.randint(50, (2, tokens), generator=stream)
        batches = [(gaussian(tokens, 20, seed=stream), torch.eye(50).double()[one]) for one in ids]
        sparse = sketch_of([(g, x.to_sparse()) for g, x in batches], 20)
        same_matrix(dense_of(sparse), summed(batches), 1e-10)


class TestSpectralGap:
    @pytest.mark.parametrize("count", [1, 4, 16])
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_angles_under_a_thousandth(self, out, in_, seed, count):
        batches = list(signal_and_noise(out, in_, 4, count, 2e3, seed))
        total = summed(batches)
        values = torch.linalg.svdvals(total)
        assert 0.01 < values[4] / values[3] < 0.12  # There is a gap, and noise that is truncated.
        sketch = sketch_of(batches, 2 * 8 + 8, torch.float32)  # An adapter of width 8 has this size.
        assert worst_angle(sketch, total, 4) < 1e-3
        same_matrix(sketch.values[:4], values[:4], 1e-4)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_one_batch_needs_little_gap(self, out, in_, seed):
        batches = list(signal_and_noise(out, in_, 4, 1, 600, seed))
        total = summed(batches)
        values = torch.linalg.svdvals(total)
        assert 0.25 < values[4] / values[3] < 0.4
        sketch = sketch_of(batches, 24, torch.float32)
        assert worst_angle(sketch, total, 4) < 1e-3
        same_matrix(sketch.values[:4], values[:4], 1e-4)

    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_without_a_gap_one_batch_loses_little_more_than_it_must(self, out, in_):
        batches = [(gaussian(200, out, seed=1), gaussian(200, in_, seed=2))]
        total = summed(batches)
        assert (total - dense_of(sketch_of(batches, 24))).norm().item() < 1.06 * best_error(total, 24)

    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_bases_from_the_sketch_follow_the_dense_gradient(self, out, in_):
        batches = list(signal_and_noise(out, in_, 4, 8, 8e3, 0))
        sketch, total = sketch_of(batches, 24, torch.float32), summed(batches)
        k = sketch.rank()
        streamed = bases_from_singular_vectors(
            sketch.left[:, :k], sketch.right[:, :k], 8, generator=generator(5)
        )
        dense = bases_from_gradient(total.float(), 8, generator=generator(5))
        assert angle_into(streamed[0][:, 4:], dense[0][:, 4:]) < 1e-3
        assert angle_into(streamed[1][:, :4], dense[1][:, :4]) < 1e-3

    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_signal_below_the_noise_of_every_batch(self, out, in_):
        batches = list(signal_and_noise(out, in_, 4, 128, 60, 0))
        noise = torch.linalg.svdvals(batches[0][0][:-4].mT @ batches[0][1][:-4])
        assert noise[4] > 120  # In a batch the strongest signal ranks below fourth.
        total = summed(batches)
        values = torch.linalg.svdvals(total)
        gap = (values[4] / values[3]).item()
        assert gap > 0.15
        # Truncation drops part of the signal with the noise: the angle is of second order in the gap's ratio.
        assert worst_angle(sketch_of(batches, 24, torch.float32), total, 4) < gap**2

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_columns_stay_orthonormal(self, dtype):
        sketch = sketch_of(list(signal_and_noise(120, 80, 4, 50, 8e3, 0)), 24, dtype)
        for side in (sketch.left, sketch.right):
            orthonormal_columns(side, 1e-12 if dtype == torch.float64 else 1e-5)
        assert (sketch.values.diff() <= 0).all()


class TestInputs:
    @pytest.mark.parametrize("tokens", [40, 1500])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_low_precision_is_summed_in_float32(self, dtype, tokens):
        batches = [(g.to(dtype), x.to(dtype)) for g, x in low_rank_batches(40, 30, 3, 4, tokens)]
        sketch = GradientSketch.empty(40, 30, 30, torch.zeros(1, dtype=dtype))
        for g, x in batches:
            sketch = sketch.add(g, x, generator())
        assert {part.dtype for part in (sketch.left, sketch.values, sketch.right)} == {torch.float32}
        same_matrix(dense_of(sketch), summed(batches), 1e-5)

    def test_batch_dimensions_are_tokens(self):
        g, x = gaussian(2, 3, 4, 30, seed=1), gaussian(2, 3, 4, 20, seed=2)
        shaped = empty_sketch(30, 20, 8).add(g, x, generator())
        flat = empty_sketch(30, 20, 8).add(g.reshape(24, 30), x.reshape(24, 20), generator())
        assert shaped.tokens == flat.tokens == 24
        same_matrix(dense_of(shaped), dense_of(flat), 1e-12)

    def test_tokens_add_up(self):
        sketch = empty_sketch(9, 7, 3)
        assert sketch.tokens == 0
        for tokens, total in ((5, 5), (1, 6), (11, 17)):
            sketch = sketch.add(gaussian(tokens, 9), gaussian(tokens, 7, seed=1))
            assert sketch.tokens == total

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_zero_gradient_carries_nothing(self, dtype):
        empty = empty_sketch(9, 7, 3, dtype)
        assert empty.rank() == 0
        zero = empty.add(torch.zeros(5, 9), gaussian(5, 7))
        assert zero.rank() == 0
        assert zero.tokens == 5
        assert not dense_of(zero).any()

    @pytest.mark.parametrize("before", [True, False])
    def test_a_zero_batch_changes_nothing(self, before):
        g, x = gaussian(4, 9), gaussian(4, 7, seed=1)
        zero = (torch.zeros_like(g), x)
        sketch = sketch_of([zero, (g, x)] if before else [(g, x), zero], 5)
        assert sketch.rank() == 4
        same_matrix(dense_of(sketch), g.mT @ x, 1e-12)

    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_carried_does_not_depend_on_scale(self, scale):
        batches = [(scale * g, x) for g, x in low_rank_batches(30, 20, 3, 2)]
        assert sketch_of(batches, 8, torch.float32).rank() == 3

    def test_a_seed_means_the_same_sketch(self):
        batches = list(signal_and_noise(30, 20, 2, 3, 300, 0))
        one, again = sketch_of(batches, 6), sketch_of(batches, 6)
        assert torch.equal(one.left, again.left)
        assert torch.equal(one.right, again.right)

    def test_adding_leaves_the_sketch_before_as_it_was(self):
        before = empty_sketch(9, 7, 3).add(gaussian(5, 9), gaussian(5, 7), generator())
        held = [part.clone() for part in (before.left, before.values, before.right)]
        before.add(gaussian(5, 9, seed=1), gaussian(5, 7, seed=2), generator())
        for part, then in zip((before.left, before.values, before.right), held, strict=True):
            assert torch.equal(part, then)


class TestMerge:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("count", [1, 2, 5])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_what_fits_is_the_sum(self, out, in_, count, dtype):
        batches = low_rank_batches(out, in_, 6, count)
        merged = GradientSketch.merge([sketch_of([batch], 9, dtype) for batch in batches])
        same_matrix(dense_of(merged), summed(batches), 1e-10 if dtype == torch.float64 else 1e-5)
        assert merged.left.dtype == dtype
        assert merged.tokens == 40 * count
        assert merged.rank() == 6

    @pytest.mark.parametrize(("out", "in_"), [*SHAPES, (9, 5), (5, 9), (7, 7)])
    def test_the_rest_is_the_best_of_its_size(self, out, in_):
        parts = [
            sketch_of([(gaussian(30, out, seed=b), gaussian(30, in_, seed=b + 50))], 4) for b in range(3)
        ]
        merged = GradientSketch.merge(parts)
        total = sum(map(dense_of, parts))
        same_matrix(merged.values, torch.linalg.svdvals(total)[:4], 1e-12)
        assert (total - dense_of(merged)).norm().item() == pytest.approx(best_error(total, 4), rel=1e-9)
        orthonormal_columns(merged.left, 1e-12)
        orthonormal_columns(merged.right, 1e-12)

    def test_sketches_of_nothing_add_nothing(self):
        empty, some = (
            empty_sketch(9, 7, 3),
            empty_sketch(9, 7, 3).add(gaussian(2, 9), gaussian(2, 7, seed=1), generator()),
        )
        same_matrix(dense_of(GradientSketch.merge([empty, some, empty])), dense_of(some), 1e-12)
        assert GradientSketch.merge([empty, empty]).rank() == 0

    def test_signs_do_not_depend_on_the_way(self):
        # Bases pair random columns with these, so another sign would mean another start of training.
        batches = low_rank_batches(30, 20, 3, 2)
        together, apart = (
            sketch_of(batches, 5),
            GradientSketch.merge([sketch_of([batch], 5) for batch in batches]),
        )
        same_matrix(together.left[:, :3], apart.left[:, :3], 1e-10)
        same_matrix(together.right[:, :3], apart.right[:, :3], 1e-10)
        assert (together.left.gather(0, together.left.abs().argmax(0, keepdim=True)) > 0).all()
