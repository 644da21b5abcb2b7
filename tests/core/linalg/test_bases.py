from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from jaxtyping import TypeCheckError

from cases import DTYPES, SHAPES, frame, gaussian, generator, matrix_with_spectrum
from corefold.core import (
    DeepCore,
    bases_from_gradient,
    bases_from_singular_vectors,
    complete,
    principal_angles,
    wide_bases,
)
from laws import lies_within, orthogonal_spaces, orthonormal_columns, same_matrix, spans_same_space

KINDS = ["gradient", "spectral", "random"]


def _gradient(
    out: int, in_: int, rank: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A gradient of this exact rank with distinct singular values, and its singular vectors."""
    gradient = matrix_with_spectrum(out, in_, [3 * 0.8**i for i in range(rank)], seed)
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    return gradient, u[:, :rank], vh[:rank].mT


def _wide_start(out: int, in_: int, depth: int) -> torch.Tensor:
    """The normalised product of wide factors of side max(out, in), each `eps_l` times (semi-)orthogonal."""
    d = max(out, in_)
    shapes = [(d, d)] * depth
    if in_ > out:
        shapes[-1] = (out, d)
    if out > in_:
        shapes[0] = (d, in_)
    scales = [0.1 * (layer + 1) for layer in range(depth)]
    product = torch.eye(shapes[0][1], dtype=torch.float64)
    for layer, ((rows, columns), scale) in enumerate(zip(shapes, scales, strict=True)):
        product = scale * frame(rows, columns, 10 + layer) @ product
    return product / math.prod(scales)


def _orthogonal_to_both(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Complement of the intersection of two null spaces, by dense SVDs of scipy."""
    null_a, null_b = (scipy.linalg.null_space(m.numpy(), rcond=1e-10) for m in (a, b))
    # The vector x = null_a @ p lies in null(b) too if it has no component outside null_b.
    outside = null_a - null_b @ (null_b.T @ null_a)
    both = null_a @ scipy.linalg.null_space(outside, rcond=1e-10) if outside.size else null_a[:, :0]
    return torch.from_numpy(scipy.linalg.null_space(both.T, rcond=1e-10) if both.size else np.eye(a.shape[1]))


class TestWideBases:
    @pytest.mark.parametrize("depth", [1, 2, 3])
    @pytest.mark.parametrize("k", [1, 2, 4])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_equal_the_null_space_construction(self, out, in_, k, depth):
        gradient, u, v = _gradient(out, in_, k)
        q = _wide_start(out, in_, depth)
        left, right = wide_bases(u, v, q)
        assert (left.shape, right.shape) == ((out, 2 * k), (in_, 2 * k))
        orthonormal_columns(left, 1e-12)
        orthonormal_columns(right, 1e-12)
        if in_ >= out:
            expected = _orthogonal_to_both(gradient, gradient.mT @ q)
            assert expected.shape == (in_, 2 * k)
            spans_same_space(right, expected, 1e-10)
            spans_same_space(left, q @ expected, 1e-10)
        if out >= in_:
            expected = _orthogonal_to_both(gradient.mT, gradient @ q.mT)
            assert expected.shape == (out, 2 * k)
            spans_same_space(left, expected, 1e-10)
            spans_same_space(right, q.mT @ expected, 1e-10)
        if out == in_:
            same_matrix(left, q @ right, 1e-10)

    @pytest.mark.parametrize(("out", "in_"), [(17, 10), (9, 16)])
    def test_the_larger_side_is_the_one_that_sees_both_halves(self, out, in_):
        _, u, v = _gradient(out, in_, 2)
        q = _wide_start(out, in_, 3)
        left, right = wide_bases(u, v, q)
        for side, held in ((left, u), (right, v)):
            lies_within(held, side, 1e-10)
        # From the smaller side back, the vectors that q drops are lost.
        smaller, larger, back = (left, v, q.mT) if in_ > out else (right, u, q)
        with pytest.raises(AssertionError):
            lies_within(larger, back @ smaller, 0.1)

    @pytest.mark.parametrize(("out", "in_"), [(17, 10), (9, 16), (12, 12)])
    def test_the_pair_that_the_start_maps_without_loss_stays_as_it_is(self, out, in_):
        k = 2
        _, u, v = _gradient(out, in_, k)
        q = _wide_start(out, in_, 3)
        left, right = wide_bases(u, v, q)
        if out >= in_:
            spans_same_space(right[:, :k], v, 1e-10)
            same_matrix(left[:, :k], q @ right[:, :k], 1e-10)
        if in_ > out:
            spans_same_space(left[:, k:], u, 1e-10)
        if in_ >= out:
            same_matrix(right[:, k:], q.mT @ left[:, k:], 1e-10)

    def test_shapes_must_agree(self):
        with pytest.raises(TypeCheckError):
            wide_bases(frame(6, 2), frame(7, 3), frame(6, 7))


def _widths(out: int, in_: int) -> list[int]:
    return sorted({1, 2, 5, 6, min(out, in_)})


SHAPES_AND_WIDTHS = [(out, in_, width) for out, in_ in SHAPES for width in _widths(out, in_)]


class TestBasesFromGradient:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("rank", [0, 1, 3, 8])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("out", "in_", "width"), SHAPES_AND_WIDTHS)
    def test_are_orthonormal(self, out, in_, width, kind, rank, dtype):
        gradient = _gradient(out, in_, rank)[0].to(dtype)
        left, right = bases_from_gradient(gradient, width, kind, generator())
        assert (left.shape, right.shape) == ((out, width), (in_, width))
        assert left.dtype == right.dtype == dtype
        atol = 1e-12 if dtype == torch.float64 else 1e-5
        orthonormal_columns(left, atol)
        orthonormal_columns(right, atol)

    @pytest.mark.parametrize("rank", [0, 1, 3, 8])
    @pytest.mark.parametrize(("out", "in_", "width"), SHAPES_AND_WIDTHS)
    def test_gradient_halves_beside_random_partners(self, out, in_, width, rank):
        gradient, u, v = _gradient(out, in_, rank)
        left, right = bases_from_gradient(gradient, width, generator=generator())
        u, v = u[:, : width // 2], v[:, : (width + 1) // 2]
        of_u, of_v = u.shape[1], v.shape[1]
        # [ Q V | U ] beside [ V | Q^T U ]: directions of V come first on the right, those of U last on the left.
        for i in range(of_v):
            spans_same_space(right[:, i : i + 1], v[:, i : i + 1], 1e-10)
        for i in range(of_u):
            spans_same_space(left[:, width - of_u + i : width - of_u + i + 1], u[:, i : i + 1], 1e-10)
        orthogonal_spaces(left[:, : width - of_u], u, 1e-10)
        orthogonal_spaces(right[:, of_v:], v, 1e-10)
        other_left, other_right = bases_from_gradient(gradient, width, generator=generator(1))
        for i in range(width - of_u):
            assert abs(left[:, i] @ other_left[:, i]) < 1 - 1e-3 or out - of_u == 1
        for i in range(of_v, width):
            assert abs(right[:, i] @ other_right[:, i]) < 1 - 1e-3 or in_ - of_v == 1

    @pytest.mark.parametrize("out", [12, 13])
    @pytest.mark.parametrize("width", [2, 6, 8])
    def test_are_the_wide_bases_of_some_orthogonal_start(self, out, width):
        gradient, u, v = _gradient(out, out, 5)
        left, right = bases_from_gradient(gradient, width, generator=generator())
        rest = frame(out - width, out - width, 3)
        outside = [torch.from_numpy(scipy.linalg.null_space(side.mT.numpy())) for side in (left, right)]
        q = left @ right.mT + outside[0] @ rest @ outside[1].mT
        orthonormal_columns(q, 1e-12)
        wide_left, wide_right = wide_bases(u[:, : width // 2], v[:, : width // 2], q)
        spans_same_space(left, wide_left, 1e-10)
        spans_same_space(right, wide_right, 1e-10)
        same_matrix(left @ right.mT, wide_left @ wide_right.mT, 1e-10)

    @pytest.mark.parametrize("rank", [1, 3, 8])
    @pytest.mark.parametrize(("out", "in_", "width"), SHAPES_AND_WIDTHS)
    def test_spectral_follows_both_sides_downhill(self, out, in_, width, rank):
        gradient, u, v = _gradient(out, in_, rank)
        left, right = bases_from_gradient(gradient, width, "spectral", generator())
        held = min(rank, width)
        same_matrix(left[:, :held] @ right[:, :held].mT, -u[:, :held] @ v[:, :held].mT, 1e-10)
        for i in range(held):
            spans_same_space(left[:, i : i + 1], u[:, i : i + 1], 1e-10)
        # Its small start lowers the loss at first order, by all the singular values it holds.
        start = DeepCore(left, DeepCore.at_start(left, right, 3, 0.1).factors, right).dense()
        slope = (gradient * start).sum().item()
        assert slope == pytest.approx(-1e-3 * torch.linalg.svdvals(gradient)[:held].sum().item(), rel=1e-10)

    @pytest.mark.parametrize(("out", "in_", "width"), SHAPES_AND_WIDTHS)
    def test_gradient_start_is_neutral_at_first_order(self, out, in_, width):
        gradient, _, _ = _gradient(out, in_, width // 2)
        left, right = bases_from_gradient(gradient, width, generator=generator())
        assert abs((gradient * (left @ right.mT)).sum().item()) <= 1e-10

    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_random_follows_neither_side(self, out, in_):
        gradient, u, v = _gradient(out, in_, 3)
        other = _gradient(out, in_, 3, seed=1)[0]
        left, right = bases_from_gradient(gradient, 6, "random", generator())
        for side, again in zip(
            (left, right), bases_from_gradient(other, 6, "random", generator()), strict=True
        ):
            assert torch.equal(side, again)
        for held, side in ((u, left), (v, right)):
            with pytest.raises(AssertionError):
                lies_within(held, side, 0.1)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_zero_gradient_gives_random_bases(self, kind):
        zero = torch.zeros(9, 16, dtype=torch.float64)
        one, other = (bases_from_gradient(zero, 5, kind, generator(seed)) for seed in (0, 1))
        for side, changed in zip(one, other, strict=True):
            with pytest.raises(AssertionError):
                spans_same_space(side, changed, 0.1)

    @pytest.mark.parametrize("scale", [1e-20, 1e20])
    def test_do_not_depend_on_the_gradient_s_scale(self, scale):
        gradient = gaussian(9, 16)
        small = bases_from_gradient(gradient, 6, generator=generator())
        for side, scaled in zip(
            small, bases_from_gradient(scale * gradient, 6, generator=generator()), strict=True
        ):
            spans_same_space(side, scaled, 1e-10)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_seed_means_the_same_bases(self, kind):
        gradient = _gradient(13, 10, 3)[0]
        torch.manual_seed(5)
        before = torch.get_rng_state()
        one = bases_from_gradient(gradient, 8, kind, generator(7))
        torch.randn(3)
        again = bases_from_gradient(gradient, 8, kind, generator(7))
        for side, same in zip(one, again, strict=True):
            assert torch.equal(side, same)
        torch.manual_seed(5)
        bases_from_gradient(gradient, 8, kind, generator(7))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_seed_means_the_same_spaces_in_each_dtype(self, kind):
        gradient = _gradient(13, 10, 3)[0]
        double = bases_from_gradient(gradient, 7, kind, generator(7))
        single = bases_from_gradient(gradient.float(), 7, kind, generator(7))
        for wide, narrow in zip(double, single, strict=True):
            spans_same_space(wide, narrow, 1e-4)

    def test_follow_the_global_seed_without_a_generator(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            one = bases_from_gradient(torch.zeros(5, 6), 2)
            torch.manual_seed(3)
            again = bases_from_gradient(torch.zeros(5, 6), 2)
        assert torch.equal(one[0], again[0])

    @pytest.mark.parametrize("width", [0, -1, 10])
    @pytest.mark.parametrize(("out", "in_"), [(9, 16), (16, 9)])
    def test_refuse_a_width_out_of_range(self, out, in_, width):
        with pytest.raises(ValueError, match=rf"between 1 and min\(out, in\) = 9; got {width}"):
            bases_from_gradient(gaussian(out, in_), width)

    def test_refuse_an_unknown_kind(self):
        # The tests' type checker would refuse it first.
        unchecked = inspect.unwrap(bases_from_singular_vectors)
        with pytest.raises(ValueError, match="one of gradient, spectral, random; got 'best'"):
            unchecked(frame(9, 2), frame(7, 2), 4, "best")


class TestComplete:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("rows", "held", "width"), [(9, 0, 4), (9, 3, 4), (9, 3, 9), (9, 4, 4), (1, 0, 1)]
    )
    def test_keeps_the_basis_and_is_orthonormal(self, rows, held, width, dtype):
        basis = frame(rows, held).to(dtype)
        full = complete(basis, width, generator())
        assert full.shape == (rows, width)
        assert torch.equal(full[:, :held], basis)
        orthonormal_columns(full, 1e-12 if dtype == torch.float64 else 1e-5)


def _spaces_at(known: torch.Tensor, extra: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two spaces at these angles, each by a general basis; the first has `extra` more dimensions."""
    n = len(known)
    axes = frame(20, 2 * n + extra)
    a = torch.cat([axes[:, :n], axes[:, 2 * n :]], 1)
    b = axes[:, :n] * known.cos() + axes[:, n : 2 * n] * known.sin()
    return (
        a @ (torch.eye(n + extra) + 0.1 * gaussian(n + extra, n + extra, seed=1)),
        b @ (torch.eye(n) + 0.1 * gaussian(n, n, seed=2)),
    )


class TestPrincipalAngles:
    @pytest.mark.parametrize(("k", "m"), [(1, 1), (3, 3), (2, 5), (5, 2), (4, 7), (1, 10)])
    @pytest.mark.parametrize("seed", range(3))
    def test_agree_with_scipy(self, k, m, seed):
        a, b = gaussian(10, k, seed=seed), gaussian(10, m, seed=seed + 100)
        angles = principal_angles(a, b)
        assert angles.shape == (min(k, m),)
        expected = np.sort(scipy.linalg.subspace_angles(a.numpy(), b.numpy()))
        # Beside large angles scipy 1.17 takes the arccos of a zero angle, and returns up to 3e-8.
        np.testing.assert_allclose(angles.numpy(), expected, rtol=0, atol=5e-8)

    @pytest.mark.parametrize("known", [(1e-12, 1e-9, 1e-6, 0.1), (1.0, 1.5, math.pi / 2 - 1e-9, math.pi / 2)])
    @pytest.mark.parametrize("extra", [0, 2])
    def test_agree_with_scipy_where_it_is_accurate(self, extra, known):
        a, b = _spaces_at(torch.tensor(known, dtype=torch.float64), extra)
        expected = np.sort(scipy.linalg.subspace_angles(a.numpy(), b.numpy()))
        np.testing.assert_allclose(principal_angles(a, b).numpy(), expected, rtol=0, atol=1e-14)

    @pytest.mark.parametrize("extra", [0, 2])
    def test_find_known_angles_tiny_beside_right(self, extra):
        known = (1e-12, 1e-9, 1e-3, math.pi / 4, 1.2, math.pi / 2 - 1e-9, math.pi / 2)
        a, b = _spaces_at(torch.tensor(known, dtype=torch.float64), extra)
        for angles in (principal_angles(a, b), principal_angles(b, a)):
            np.testing.assert_allclose(angles.numpy(), known, rtol=0, atol=1e-14)

    def test_of_a_space_with_itself_are_zero(self):
        a = gaussian(10, 4)
        assert principal_angles(a, a @ gaussian(4, 4, seed=1)).max() < 1e-14

    def test_of_a_space_inside_another_are_zero(self):
        a = gaussian(10, 4)
        assert principal_angles(a[:, 1:3], a).max() < 1e-14
        assert principal_angles(a, a[:, 1:3]).max() < 1e-14

    def test_in_float32_are_accurate_to_its_rounding(self):
        known = torch.tensor([1e-5, 1e-3, 0.4, 1.2, math.pi / 2], dtype=torch.float64)
        a, b = _spaces_at(known, 1)
        np.testing.assert_allclose(principal_angles(a.float(), b.float()).numpy(), known, rtol=0, atol=2e-6)
