"""Work that the processes of a distributed run share while they set the bases of an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from corefold.core import GradientSketch, MomentSketch

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process is the one that speaks to the user."""
    return not _is_distributed() or dist.get_rank() == 0


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def gathered(value: T) -> list[T]:
    """The value of every process, by rank; outside a distributed run this one's alone."""
    if not _is_distributed():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def failing_together() -> Iterator[None]:
    """If one process raises inside, all do; otherwise the others would wait for it without end."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    messages = gathered(None if error is None else f"{error}")
    if error is not None:
        raise error
    for rank, text in enumerate(messages):
        if text is not None:
            raise ValueError(f"process {rank} failed: {text}")


def averaged(sketches: dict[str, GradientSketch]) -> dict[str, GradientSketch]:
    """Every layer's gradient averaged over the processes, as DDP and FSDP average it in training."""
    tokens = gathered([sketch.tokens for sketch in sketches.values()])
    if len(tokens) == 1:
        return sketches
    return {
        name: GradientSketch.merge(_from_all_processes(sketch, counts))
        for (name, sketch), counts in zip(sketches.items(), zip(*tokens, strict=True), strict=True)
    }


def _from_all_processes(sketch: GradientSketch, tokens: tuple[int, ...]) -> list[GradientSketch]:
    # One tensor for all three parts needs only one collective a layer.
    own = torch.cat([sketch.left, sketch.values[None] / len(tokens), sketch.right])
    tables = [torch.empty_like(own) for _ in tokens]
    dist.all_gather(tables, own)
    rows = [len(sketch.left), 1, len(sketch.right)]
    parts = [table.split(rows) for table in tables]
    return [
        GradientSketch(left, values[0], right, count)
        for (left, values, right), count in zip(parts, tokens, strict=True)
    ]


def summed(moments: dict[str, MomentSketch]) -> dict[str, MomentSketch]:
    """Every layer's sums over the samples of all processes."""
    if not _is_distributed():
        return moments
    sums = {}
    for name, own in moments.items():
        both = torch.cat([own.left, own.right])
        dist.all_reduce(both)
        left, right = both.split([len(own.left), len(own.right)])
        sums[name] = replace(own, left=left, right=right)
    return sums


def placed_as(parameter: Tensor, values: Tensor) -> Tensor:
    """`values` ready to be copied into `parameter`: for a DTensor, each process's part of the first one's values."""
    if not hasattr(parameter, "device_mesh"):
        return values
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameter = cast(DTensor, parameter)
    return distribute_tensor(values, parameter.device_mesh, parameter.placements)


def share(parameter: Tensor) -> None:
    """Give every process the first one's numbers. (A DTensor has them already: see `placed_as`.)"""
    if _is_distributed() and not hasattr(parameter, "device_mesh"):
        dist.broadcast(parameter.data, src=0)


def show_own_parts(model: nn.Module) -> None:
    """Let the modules of FSDP2 hold what its optimizer sees, not the copies gathered for the last pass."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()  # type: ignore[operator]


def partitioned_by(parameter: Tensor, dimensions: int) -> str | None:
    """The strategy that has cut up a parameter of this many dimensions: "DeepSpeed ZeRO-3", "FSDP1", or None."""
    if hasattr(parameter, "ds_id"):
        return "DeepSpeed ZeRO-3"
    return "FSDP1" if parameter.ndim != dimensions else None
