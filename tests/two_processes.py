"""Runs a function in the two processes of a distributed run.

The processes fork from a server that has imported everything once and run nothing. They meet in a file, so tests that
run at once share no port.
"""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_SECONDS = 120
PRELOAD = [  # modules that take seconds to import
    "corefold.adapters",
    "corefold.completion.estimator",
    "pytest",
    "scipy.sparse",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.testing",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
]


def in_two_processes(work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """The results of `work(*arguments)` in each of two gloo processes; fails if one fails, or after two minutes."""
    folder.mkdir(exist_ok=True)
    mp.set_forkserver_preload(PRELOAD)
    context: Any = mp.start_processes(
        _process, (work, folder, arguments), nprocs=2, join=False, start_method="forkserver"
    )
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while not context.join(timeout=0.1):
            assert time.monotonic() < deadline, f"{work.__name__} hangs"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _process(rank: int, work: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    gc.freeze()  # A collection would walk, and so copy, the server's million objects.
    torch.set_num_threads(1)
    # accelerate reads these.
    os.environ.update(dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)))
    os.environ.update(dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2"))
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=TIMEOUT_SECONDS / 2),
    )
    torch.save(work(*arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()
