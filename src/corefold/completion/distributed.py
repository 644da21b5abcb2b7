"""The rows of a matrix in one process, or shared out over several, and what processes need to know of each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class Rows:
    """All rows are here."""

    offset = 0  # rows before the first of this process
    first = True  # whether this is the process that speaks
    count = 1  # of processes

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes, in place."""
        return x

    def most(self, x: Tensor) -> Tensor:
        """The largest over processes, in place."""
        return x

    def same(self, x: Tensor) -> Tensor:
        """What the first process has, in place."""
        return x

    def all_of(self, x: Tensor) -> Tensor:
        """The rows of `x` of all processes, in their order."""
        return x

    def qr(self, tall: Tensor) -> tuple[Tensor, Tensor]:
        """Q, of which each process has its rows, and R of the rows of all."""
        return torch.linalg.qr(tall)


class SharedRows(Rows):
    """Each process of the default group has a run of the rows, in the order of ranks."""

    def __init__(self, own: int, device: torch.device) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.first = self.rank == 0
        self.offset = sum(self._sizes(own, device)[: self.rank])

    def sum(self, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    def most(self, x: Tensor) -> Tensor:
        dist.all_reduce(x, dist.ReduceOp.MAX)
        return x

    def same(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.broadcast(x, 0)
        return x

    def all_of(self, x: Tensor) -> Tensor:
        sizes = self._sizes(len(x), x.device)
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        everyone = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(everyone, padded)
        return torch.cat([part[:size] for part, size in zip(everyone, sizes, strict=True)])

    def qr(self, tall: Tensor) -> tuple[Tensor, Tensor]:
        # A process of fewer rows than columns has an R as low; all of them together are the matrix to go on with.
        q, r = torch.linalg.qr(tall)
        before = sum(self._sizes(len(r), r.device)[: self.rank])
        q_all, r_all = torch.linalg.qr(self.all_of(r))
        return q @ q_all[before : before + len(r)], r_all

    def _sizes(self, own: int, device: torch.device) -> list[int]:
        sizes = torch.zeros(self.count, dtype=torch.int64, device=device)
        sizes[self.rank] = own
        return self.sum(sizes).tolist()


def gathered(value: Any, shared: bool) -> list[Any]:
    """The value of every process, by rank; this one's alone if nothing is shared.

    Raises:
        ValueError: there is no group of processes.
    """
    if not shared:
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
def together(shared: bool) -> Iterator[None]:
    """Raises in every process what one of them raised inside: or the others would wait for it without end."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    said = gathered(None if error is None else (type(error), f"{error}"), shared) if shared else []
    if error is not None:
        raise error
    for rank, failed in enumerate(said):
        if failed is not None:
            kind, text = failed
            raise (MemoryError if kind is MemoryError else ValueError)(f"process {rank} failed: {text}")
