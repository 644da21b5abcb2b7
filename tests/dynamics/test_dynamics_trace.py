from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from cases import frame, generator, matrix_with_spectrum
from corefold.dynamics import angles_to_last, descend, loss, orthogonal_start, trace


def test_snapshots_are_of_the_steps_asked_for():
    target = matrix_with_spectrum(12, 9, [3.0, 2.0])
    start = orthogonal_start(12, 9, 3, 0.3, generator())
    taken = trace(descend(start, target, 0.02), target, 100, 40, 2)
    assert [one.step for one in taken] == [0, 40, 80]
    there = next(islice(descend(start, target, 0.02), 40, None))
    assert taken[1].loss == loss(there, target)
    for layer, factor in enumerate(there):
        u, s, v = taken[1].left[layer], taken[1].spectra[layer], taken[1].right[layer]
        assert len(s) == min(factor.shape)
        torch.testing.assert_close(factor @ v, u * s[:2], rtol=0, atol=1e-13)


def test_angles_are_to_the_last_space_and_end_at_none():
    # A path whose leading directions turn: at step t by t * 0.1 radians in one plane, the other stays.
    axes = frame(6, 4)

    def turned(step):
        angle = 0.1 * step
        first = math.cos(angle) * axes[:, 0] + math.sin(angle) * axes[:, 1]
        return [torch.outer(axes[:, 0], 3 * first) + torch.outer(axes[:, 2], 2 * axes[:, 2])]

    target = torch.zeros(6, 6, dtype=torch.float64)
    taken = trace((turned(step) for step in range(11)), target, 10, 5, 2)
    angles = angles_to_last(taken, 0)
    assert angles.shape == (3, 2)
    assert angles[:, 1].tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-12)
    assert angles[:, 0].max() < 1e-12
