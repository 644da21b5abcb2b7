"""A sketch holds few numbers, and no batch is formed into a large matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cases import gaussian, generator
from core.linalg.gradient_batches import SHAPES, empty_sketch, signal_and_noise, sketch_of


class LargestTensor(TorchDispatchMode):
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
        empty = empty_sketch(out, in_, 1000)
        assert (empty.left.shape, empty.right.shape) == ((out, min(out, in_)), (in_, min(out, in_)))

    @pytest.mark.parametrize("count", [0, 1, 5])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_what_is_held(self, out, in_, count):
        size = 6
        sketch = empty_sketch(out, in_, size, torch.float32)
        for batch in signal_and_noise(out, in_, 2, count, 8e3, 0):
            sketch = sketch.add(*batch, generator())
        parts = (sketch.left, sketch.values, sketch.right)
        assert sum(part.numel() for part in parts) == (out + in_ + 1) * size
        storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
        assert sum(storages.values()) == 4 * (out + in_ + 1) * size

    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_the_dense_gradient_is_never_formed(self, out, in_):
        size, tokens = 6, 20
        batches = [(gaussian(tokens, out, seed=b), gaussian(tokens, in_, seed=b + 9)) for b in range(2)]
        with LargestTensor() as largest:
            sketch_of(batches, size)
        assert 0 < largest.numel <= tokens * max(out, in_)

    @pytest.mark.parametrize("size", [6, 24])
    @pytest.mark.parametrize("tokens", [10, 60, 400])
    @pytest.mark.parametrize(("out", "in_"), SHAPES)
    def test_a_dense_gradient_is_at_most_twice_the_larger_factor(self, out, in_, tokens, size):
        batches = [(gaussian(tokens, out, seed=b), gaussian(tokens, in_, seed=b + 9)) for b in range(2)]
        with LargestTensor() as largest:
            sketch_of(batches, size)
        assert largest.numel <= 2 * (tokens + size) * max(out, in_)
        assert largest.numel >= out * in_ or tokens < 400  # A small one is formed.
