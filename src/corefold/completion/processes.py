"""The rows of a matrix in one process, or shared out over several: sums, and a QR of a tall matrix of all rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


class Rows:
    """All rows are here."""

    offset = 0  # rows before the first of this process
    first = True  # whether this is the process that speaks

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes, in place."""
        return x

    def qr(self, tall: Tensor) -> tuple[Tensor, Tensor]:
        """Q, of which each process has its rows, and R of the rows of all."""
        return torch.linalg.qr(tall)


class SharedRows(Rows):
    """Each process of the default group has a run of the rows, in the order of ranks."""

    def __init__(self, own: int, device: torch.device) -> None:
        counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
        counts[dist.get_rank()] = own
        dist.all_reduce(counts)
        self.offset = int(counts[: dist.get_rank()].sum())
        self.first = dist.get_rank() == 0

    def sum(self, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    def qr(self, tall: Tensor) -> tuple[Tensor, Tensor]:
        # Each process may have fewer rows than columns: its R is then as low, and padded with zeros.
        q, r = torch.linalg.qr(tall)
        padded = r.new_zeros(tall.shape[1], tall.shape[1])
        padded[: len(r)] = r
        everyone = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, padded)
        q_all, r_all = torch.linalg.qr(torch.cat(everyone))
        own = q_all[dist.get_rank() * len(padded) :][: len(r)]
        return q @ own, r_all
