"""Commands under `torchrun`: whatever the number of processes, a command writes and prints once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from corefold.cli import console

SHARED_COMMANDS = ("finetune", "complete")  # their processes divide the work and agree on who writes
LAUNCHER_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip


def divide_work(arguments: Sequence[str]) -> None:
    """Let the first process alone run a command that has nothing to divide, and alone speak in one that has.

    Args:
        arguments: those of the command line; the first is the command.
    """
    if "RANK" not in os.environ:
        return
    first, command = os.environ["RANK"] == "0", next(iter(arguments), "")
    if command not in SHARED_COMMANDS:
        if not first:
            sys.exit(0)
        for name in LAUNCHER_VARIABLES:  # with them, Trainer would wait for the processes that have left
            os.environ.pop(name, None)
    elif command == "finetune" and not first:
        console.be_silent()


def end_together() -> None:
    """Leave the group of processes, if this one joined it."""
    if "torch.distributed" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
