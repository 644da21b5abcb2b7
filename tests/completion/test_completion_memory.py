"""The memory guard knows the device, and the operations that a GPU runs have a bounded workspace."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from observations import low_rank, sparse, with_holes
from torch.utils._python_dispatch import TorchDispatchMode

from cases import gaussian, generator
from corefold.completion import DeepMatrixCompletion, memory, torch_kernels
from corefold.completion import observed as observed_module
from corefold.completion.memory import free_bytes, require_memory, require_memory_for_fit
from corefold.completion.observed import Observed
from laws import same_matrix

GIB = 2**30


@pytest.fixture
def devices(monkeypatch):
    """A host with 8 GiB free; a CUDA device with 2, and half a GiB that PyTorch holds unused; a Mac that lends 5 of 6."""
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB // 2)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 6 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: GIB)


@pytest.mark.parametrize(
    ("device", "free"), [("cpu", 8), ("cuda", 2.5), ("cuda:1", 2.5), ("mps", 5), ("xpu", 8)]
)
def test_free_memory_is_that_of_the_device(devices, device, free):
    assert free_bytes(torch.device(device)) == free * GIB
    require_memory("a table", int(free * GIB), "take less", device)
    place = "" if device == "cpu" else f" on {device}"
    message = rf"a table would take {free:.1f} GiB and {free:.1f} GiB are free{place}; take less"
    with pytest.raises(MemoryError, match=message):
        require_memory("a table", int(free * GIB) + 1, "take less", device)


def empty_matrix(height, width, device):
    """A matrix without entries; on the "meta" device it takes no memory."""

    def none(*shape, dtype=torch.int32):
        return torch.empty(*shape, dtype=dtype, device=device)

    starts, column_starts = none(height + 1, dtype=torch.int64), none(width + 1, dtype=torch.int64)
    return Observed(none(0, dtype=torch.float64), starts, none(0), column_starts, none(0), none(0))


def test_a_fit_asks_the_device_that_holds_its_entries(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: {"cpu": 8 * GIB, "meta": 4 * GIB}[device.type])
    height = 4 * GIB // (8 * memory.WORKING_COPIES * 64) - 10  # working copies of nearly 4 GiB
    require_memory_for_fit(empty_matrix(height, 5, "cpu"), 64)
    # On a device other than the CPU the workspace of PyTorch's operations, half a GiB, comes on top.
    message = r"a fit of rank 64 would take 4\.5 GiB and 4\.0 GiB are free on meta; set a lower max_rank"
    with pytest.raises(MemoryError, match=message):
        require_memory_for_fit(empty_matrix(height, 5, "meta"), 64)


class LargestTensor(TorchDispatchMode):
    """Notes the most numbers that a tensor made inside has."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {id(leaf) for leaf in args if isinstance(leaf, torch.Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            # Neither a view nor an expanded scalar takes memory of its own.
            if isinstance(tensor, torch.Tensor) and id(tensor) not in known and not tensor._is_view():
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.fixture
def on_a_gpu(monkeypatch):
    """The operations that a GPU runs, in chunks of 4,000 numbers."""
    monkeypatch.setattr(torch_kernels, "MAX_CHUNK_NUMBERS", 4000)
    monkeypatch.setattr(
        observed_module, "_run", lambda name, *tensors, out: getattr(torch_kernels, name)(*tensors, out)
    )


def tall(height, width, rank):
    """Entries with one row that has all columns, so that a row alone takes several chunks; and factors, and ridges."""
    observed, shown, dense = sparse(height, width, 0.3)
    shown[1], dense[1] = True, gaussian(1, width, seed=8)[0]
    rows, columns = shown.nonzero(as_tuple=True)
    observed = Observed.of(rows, columns, dense[rows, columns], (height, width))
    left, right = gaussian(height, rank, seed=5), gaussian(width, rank, seed=6)
    return observed, left, right, gaussian(height, rank, seed=7).square() + 0.1


def test_the_workspace_of_a_ridge_step_does_not_grow_with_the_matrix(on_a_gpu):
    rank, width = 16, 40
    for height in (300, 1200):
        observed, left, right, ridge = tall(height, width, rank)
        assert height * rank**2 > 10 * torch_kernels.MAX_CHUNK_NUMBERS
        with LargestTensor() as largest:
            observed.fit_rows(right, ridge)
            observed.products(left, right)
        results = max(height * rank, len(observed))  # their results, and an index of entries
        assert largest.numbers <= max(results, torch_kernels.MAX_CHUNK_NUMBERS)


def test_chunks_give_what_one_piece_gives(monkeypatch):
    observed, left, right, ridge = tall(120, 50, 8)

    def results():
        run = torch_kernels.ridge_regression
        out = torch.empty_like(left)
        by_rows = run(observed.starts, observed.columns, observed.values, right, ridge, out)
        gram, sums = torch.empty(50, 8, 8, dtype=torch.float64), torch.empty(50, 8, dtype=torch.float64)
        values = observed.values[observed.order]
        torch_kernels.normal_equations(observed.column_starts, observed.rows, values, left, gram, sums)
        return by_rows, gram, sums

    whole = results()
    for limit in (1, 64, 1000, 5000):
        monkeypatch.setattr(torch_kernels, "MAX_CHUNK_NUMBERS", limit)
        for chunked, expected in zip(results(), whole, strict=True):
            same_matrix(chunked, expected, 1e-12)


def test_a_whole_fit_in_chunks_is_that_of_the_compiled_loops(monkeypatch):
    holes = with_holes(low_rank(60, 40, 2) + 0.1 * gaussian(60, 40, seed=generator(3)).numpy(), 0.5)

    def streamed():
        model = DeepMatrixCompletion(3, random_state=0, max_iter=4).fit(holes[:40])
        return model.partial_fit(holes[40:]).transform(holes)

    compiled = streamed()
    monkeypatch.setattr(torch_kernels, "MAX_CHUNK_NUMBERS", 100)
    monkeypatch.setattr(
        observed_module, "_run", lambda name, *tensors, out: getattr(torch_kernels, name)(*tensors, out)
    )
    same_matrix(torch.from_numpy(streamed()), torch.from_numpy(compiled), 1e-8)
