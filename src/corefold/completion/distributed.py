"""How the rows of a matrix are divided among processes, and the collective operations that a fit needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class RowPartition:
    """One process holds all rows, so that every collective operation is the identity.

    Attributes:
        offset: rows of the whole matrix before the first one of this process.
        is_first: whether this is the process that prints.
        process_count: how many processes hold rows.
    """

    offset = 0
    is_first = True
    process_count = 1

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes, in place."""
        return x

    def max(self, x: Tensor) -> Tensor:
        """The elementwise maximum over processes, in place."""
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        """The first process's tensor, in place."""
        return x

    def gather(self, x: Tensor) -> Tensor:
        """The rows of `x` of all processes, in the order of their ranks."""
        return x

    def qr(self, tall: Tensor) -> tuple[Tensor, Tensor]:
        """The QR decomposition of the whole matrix: this process's rows of Q, and R."""
        return torch.linalg.qr(tall)


class DistributedRows(RowPartition):
    """Each process of the default group holds a contiguous run of the rows, in the order of ranks."""

    def __init__(self, height: int, device: torch.device) -> None:
        self.rank, self.process_count = dist.get_rank(), dist.get_world_size()
        self.is_first = self.rank == 0
        self.offset = sum(self._heights(height, device)[: self.rank])

    def sum(self, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    def max(self, x: Tensor) -> Tensor:
        dist.all_reduce(x, dist.ReduceOp.MAX)
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.broadcast(x, 0)
        return x

    def gather(self, x: Tensor) -> Tensor:
        heights = self._heights(len(x), x.device)
        padded = x.new_zeros(max(heights), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in heights]
        dist.all_gather(parts, padded)
        return torch.cat([part[:height] for part, height in zip(parts, heights, strict=True)])

    def qr(self, tall: Tensor) -> tuple[Tensor, Tensor]:
        # A process with fewer rows than columns has an R of as few rows; the stacked R's are decomposed once more.
        q, r = torch.linalg.qr(tall)
        before = sum(self._heights(len(r), r.device)[: self.rank])
        q_all, r_all = torch.linalg.qr(self.gather(r))
        return q @ q_all[before : before + len(r)], r_all

    def _heights(self, height: int, device: torch.device) -> list[int]:
        """How many rows each process has."""
        heights = torch.zeros(self.process_count, dtype=torch.int64, device=device)
        heights[self.rank] = height
        return self.sum(heights).tolist()


def gather_objects(value: Any, distributed: bool) -> list[Any]:
    """The value of every process, by rank; without `distributed` this process's alone.

    Raises:
        ValueError: there is no group of processes.
    """
    if not distributed:
        return [value]
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "distributed=True takes a group of processes: start them with torchrun, and call "
            "torch.distributed.init_process_group first"
        )
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def errors_in_every_process(distributed: bool) -> Iterator[None]:
    """Raise in every process the error that one of them raised inside; the others would wait forever otherwise."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    report = None if error is None else (type(error), f"{error}")
    reports = gather_objects(report, distributed) if distributed else []
    if error is not None:
        raise error
    for rank, other in enumerate(reports):
        if other is not None:
            kind, text = other
            raise (MemoryError if kind is MemoryError else ValueError)(f"process {rank} failed: {text}")
