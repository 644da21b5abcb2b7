"""Bytes that tensors occupy: at the peak of a step, and kept by autograd for the backward pass."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

MARK = "corefold: the peak counts from here"


class Watch:
    """Within `with Watch(device) as watch:`, tensors are counted; after it, `watch.peak` is in bytes.

    The peak is the most memory, at any time after `mark()`, that was allocated since the `with` began and not yet
    freed. On a CPU it is the sum of the allocator's events; memory from before the `with` does not count, nor does its
    release. On CUDA it is the allocator's own counter.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device, self.peak = torch.device(device), 0
        activities = [ProfilerActivity.CPU]
        self._profile = (
            None if self.device.type == "cuda" else profile(activities=activities, profile_memory=True)
        )

    def __enter__(self) -> Watch:
        gc.collect()
        if self._profile is None:
            torch.cuda.synchronize(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._profile.__enter__()
        return self

    def mark(self) -> None:
        """Start the peak anew: memory that was freed before this call does not count."""
        gc.collect()
        if self._profile is None:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with record_function(MARK):
                pass

    def __exit__(self, *error: Any) -> None:
        if self._profile is None:
            torch.cuda.synchronize(self.device)
            self.peak = torch.cuda.max_memory_allocated(self.device) - self._before
        else:
            self._profile.__exit__(*error)
            if error[0] is None:
                self.peak = _peak(self._profile.profiler.kineto_results.experimental_event_tree())


def _peak(tree: Iterable[Any]) -> int:
    """The highest sum of allocated bytes after the mark, in the order of time."""
    held: dict[int, int] = {}
    total, peak = 0, None
    for event in sorted(_flat(tree), key=lambda event: event.start_time_ns):
        if event.name == MARK:
            peak = total
        size, pointer = (getattr(event.extra_fields, name, None) for name in ("alloc_size", "ptr"))
        if size is None or pointer is None:
            continue
        if size > 0:
            held[pointer] = size
            total += size
        else:
            # The profiler also reports the release of memory that an earlier profile saw allocated.
            total -= held.pop(pointer, 0)
        peak = None if peak is None else max(peak, total)
    if peak is None:
        raise RuntimeError("mark() was not called")
    return peak


def _flat(tree: Iterable[Any]) -> Iterator[Any]:
    for event in tree:
        yield event
        yield from _flat(event.children)


@contextmanager
def saved_for_backward(left_out: Collection[int] = ()) -> Iterator[dict[int, int]]:
    """The storages that autograd saves within the `with`: bytes by address, without the addresses `left_out`."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in left_out:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def addresses(model: nn.Module) -> set[int]:
    """The addresses of the storages of a model's parameters and buffers."""
    return {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
