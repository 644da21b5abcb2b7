"""Second moments of samples' gradients against their dense float64 sums, and bases from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import ROUNDING, SHAPES, frame, gaussian, generator
from corefold.core import MomentSketch, paired_bases
from laws import angle_into, orthonormal_columns, same_matrix, spans_same_space

Batch = tuple[Tensor, Tensor]


def _sketch(batches: list[Batch], size: int, dtype: torch.dtype = torch.float64) -> MomentSketch:
    g, x = batches[0]
    sketch = MomentSketch.empty(g.shape[-1], x.shape[-1], size, torch.zeros(1, dtype=dtype))
    for g, x in batches:
        sketch = sketch.add(g.to(dtype), x.to(dtype))
    return sketch


def _moments(batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """The two sums, dense, sample by sample."""
    gradients = [
        len(g) * g[i].reshape(-1, g.shape[-1]).mT @ x[i].reshape(-1, x.shape[-1])
        for g, x in batches
        for i in range(len(g))
    ]
    rows, columns = (
        torch.stack(each).sum(0) for each in ([a @ a.mT for a in gradients], [a.mT @ a for a in gradients])
    )
    return rows, columns


def _batches(
    out: int, in_: int, rank: int, *, count: int = 3, samples: int = 4, tokens: int = 5, seed: int = 0
):
    """Samples whose gradients lie in one pair of spaces of dimension `rank`, each of them different."""
    stream = generator(seed)
    u, v = frame(out, rank, stream), frame(in_, rank, stream)
    return [
        (
            gaussian(samples, tokens, rank, seed=stream) @ u.mT,
            gaussian(samples, tokens, rank, seed=stream) @ v.mT,
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_the_sums_are_those_of_single_samples(out, in_, dtype):
    batches = _batches(out, in_, min(out, in_))
    sketch = _sketch(batches, 6, dtype)
    rows, columns = _moments([(g.to(dtype).double(), x.to(dtype).double()) for g, x in batches])
    same_matrix(sketch.left.double(), rows @ sketch.left_test.double(), 1e-12)
    same_matrix(sketch.right.double(), columns @ sketch.right_test.double(), 1e-12)


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_directions_span_what_all_samples_span(out, in_, dtype):
    batches = _batches(out, in_, 4)
    left, right = _sketch(batches, 7, dtype).directions(7)
    rows, columns = _moments(batches)
    assert left.shape == (out, 4)  # Seven were wanted, and there are four.
    assert right.shape == (in_, 4)
    for side, total in ((left, rows), (right, columns)):
        orthonormal_columns(side, 1e-5)
        spans_same_space(side.double(), total, 1e-3 if dtype == torch.float32 else 1e-5)


def test_the_leading_directions_of_a_decaying_spectrum_come_first():
    out, in_, samples = 60, 50, 200
    stream = generator(1)
    u, v = frame(out, 30, stream), frame(in_, 30, stream)
    sizes = 2.0 ** -torch.arange(30, dtype=torch.float64)
    g, x = gaussian(samples, 1, 30, seed=stream) * sizes @ u.mT, gaussian(samples, 1, 30, seed=stream) @ v.mT
    left, _ = _sketch([(g, x)], 16).directions(4)
    dense = torch.linalg.eigh(_moments([(g, x)])[0]).eigenvectors.flip(1)
    for k in range(1, 5):
        assert angle_into(left[:, :k], dense[:, :k]) < 1e-3


def test_samples_that_disagree_count_though_their_mean_is_zero():
    g, x = gaussian(2, 4, 12, seed=1), gaussian(2, 4, 9, seed=2)
    g, x = torch.cat([g, -g]), torch.cat([x, x])
    assert (g.flatten(0, 1).mT @ x.flatten(0, 1)).norm() < 1e-12
    left, right = _sketch([(g, x)], 9).directions(3)
    rows, columns = (torch.linalg.eigh(total).eigenvectors for total in _moments([(g, x)]))
    assert angle_into(left, rows[:, -3:]) < 1e-6
    assert angle_into(right, columns[:, -3:]) < 1e-6


@pytest.mark.parametrize("sparse", [False, True])
def test_each_row_of_two_axes_is_a_sample(sparse):
    g, x = gaussian(20, 12, seed=1), gaussian(20, 9, seed=2) * (gaussian(20, 9, seed=3) > 1)
    one = MomentSketch.empty(12, 9, 6, g).add(g, x.to_sparse() if sparse else x)
    three = MomentSketch.empty(12, 9, 6, g).add(g[:, None], x[:, None])
    same_matrix(one.left, three.left, 1e-12)
    same_matrix(one.right, three.right, 1e-12)


def test_how_samples_are_cut_into_batches_does_not_matter_to_a_mean_loss():
    g, x = gaussian(7, 5, 12, seed=1), gaussian(7, 5, 9, seed=2)
    cut = [(g[:2] / 2, x[:2]), (g[2:] / 5, x[2:])]
    same_matrix(_sketch(cut, 6).left, _sketch([(g / 7, x)], 6).left, 1e-12)
    same_matrix(_sketch(cut, 6).right, _sketch([(g / 7, x)], 6).right, 1e-12)


def test_nothing_has_no_directions():
    left, right = MomentSketch.empty(12, 9, 6, torch.zeros(1)).directions(4)
    assert (left.shape, right.shape) == ((12, 0), (9, 0))


@pytest.mark.parametrize(("out", "in_"), SHAPES)
def test_paired_bases_keep_the_span_and_start_downhill(out, in_):
    gradient = gaussian(out, in_, seed=3)
    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    sides = frame(out, 3, 1), frame(in_, 5, 2)
    left, right = paired_bases(*sides, (u, s, vh.mT), 6, generator(4))
    for side, directions in zip((left, right), sides, strict=True):
        orthonormal_columns(side, 1e-12)
        assert angle_into(directions, side) < 1e-7
    core = left.mT @ gradient @ right
    assert (core.diagonal() < 0).all()
    same_matrix(core, core.diagonal().diag(), 1e-12)
    same_matrix(core.diagonal().abs().sort(descending=True).values, core.diagonal().abs(), 1e-12)
