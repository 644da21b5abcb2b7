"""The processes that `torchrun` starts for one run: all train, the first one writes, and the others wait for it."""

from __future__ import annotations

import os

import torch.distributed as dist


def is_first() -> bool:
    """Whether this process writes files and speaks to the user; true outside `torchrun`."""
    return os.environ.get("RANK", "0") == "0"


def wait_for_all() -> None:
    """Wait until every process is here, so that files which the first one wrote are there for all."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
