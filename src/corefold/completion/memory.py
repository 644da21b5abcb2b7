"""Refusing what would not fit in memory, before it is allocated."""

from __future__ import annotations

import psutil
import torch

from corefold.completion.observed import Observed
from corefold.completion.torch_kernels import MAX_WORKSPACE_NUMBERS

WORKING_COPIES = 20  # copies of the factors in a step of a solver


def require_memory(what: str, byte_count: int, instead: str, device: str | torch.device = "cpu") -> None:
    """Refuse what takes more bytes than are free on the device where it is computed.

    Args:
        what: its name in the message.
        byte_count: an estimate of its size.
        instead: what the user can do about it.
        device: where it will be allocated.

    Raises:
        MemoryError: with the estimate.
    """
    free = free_bytes(torch.device(device))
    if byte_count > free:
        place = "" if torch.device(device).type == "cpu" else f" on {device}"
        raise MemoryError(
            f"{what} would take {byte_count / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free{place}; {instead}"
        )


def require_memory_for_fit(observed: Observed, rank: int) -> None:
    """Refuse a fit whose working copies of the factors would not fit on the device that holds the entries.

    Raises:
        MemoryError: with the estimate.
    """
    values = observed.values
    numbers = WORKING_COPIES * rank * sum(observed.shape)
    if values.device.type != "cpu":
        numbers += MAX_WORKSPACE_NUMBERS
    require_memory(
        f"a fit of rank {rank}", numbers * values.element_size(), "set a lower max_rank", values.device
    )


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated there; of a kind of device that PyTorch does not measure, the host's."""
    host = psutil.virtual_memory().available
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # PyTorch keeps freed blocks for itself, which the driver counts as used.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":  # it shares the host's memory, of which a process may use a part
        return min(host, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return host
