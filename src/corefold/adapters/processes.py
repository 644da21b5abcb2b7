"""What the processes of a distributed run do together while they set the bases of an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from corefold.core import GradientSketch, MomentSketch

if TYPE_CHECKING:
    from corefold.adapters.layer import DeepLoraLayer

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process is the one that speaks to the user."""
    return not _several() or dist.get_rank() == 0


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def gathered(value: T) -> list[T]:
    """The value of every process, by rank; outside a distributed run this one's alone."""
    if not _several():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def failing_together() -> Iterator[None]:
    """Raises in every process what one of them raised inside: or the others would wait for it without end."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    said = gathered(None if error is None else f"{error}")
    if error is not None:
        raise error
    for rank, text in enumerate(said):
        if text is not None:
            raise ValueError(f"process {rank} failed: {text}")


def averaged(sketches: dict[str, GradientSketch]) -> dict[str, GradientSketch]:
    """Every layer's gradient averaged over the processes, as DDP and FSDP average it in training."""
    tokens = gathered([sketch.tokens for sketch in sketches.values()])
    if len(tokens) == 1:
        return sketches
    return {
        name: GradientSketch.merge(_of_all(sketch, counts))
        for (name, sketch), counts in zip(sketches.items(), zip(*tokens, strict=True), strict=True)
    }


def _of_all(sketch: GradientSketch, tokens: tuple[int, ...]) -> list[GradientSketch]:
    own = torch.cat([sketch.left, sketch.values[None] / len(tokens), sketch.right])  # one collective a layer
    everyone = [torch.empty_like(own) for _ in tokens]
    dist.all_gather(everyone, own)
    rows = [len(sketch.left), 1, len(sketch.right)]
    parts = [table.split(rows) for table in everyone]
    return [
        GradientSketch(left, values[0], right, count)
        for (left, values, right), count in zip(parts, tokens, strict=True)
    ]


def summed(moments: dict[str, MomentSketch]) -> dict[str, MomentSketch]:
    """Every layer's sums over the samples of all processes."""
    if not _several():
        return moments
    found = {}
    for name, own in moments.items():
        both = torch.cat([own.left, own.right])  # one collective a layer
        dist.all_reduce(both)
        left, right = both.split([len(own.left), len(own.right)])
        found[name] = replace(own, left=left, right=right)
    return found


def placed_as(parameter: Tensor, values: Tensor) -> Tensor:
    """`values` ready to be copied into `parameter`: for a DTensor, each process's part of the first one's values."""
    if not hasattr(parameter, "device_mesh"):
        return values
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameter = cast(DTensor, parameter)
    return distribute_tensor(values, parameter.device_mesh, parameter.placements)


def share(parameter: Tensor) -> None:
    """Take the first process's numbers. (A DTensor has them: see `placed_as`.)"""
    if _several() and not hasattr(parameter, "device_mesh"):
        dist.broadcast(parameter.data, src=0)


def show_own_parts(model: nn.Module) -> None:
    """Let the modules of FSDP2 hold what its optimizer sees, not the copies gathered for the last pass."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()  # type: ignore[operator]


def refuse_partitioned(layers: dict[str, tuple[DeepLoraLayer, str]]) -> None:
    """Refuse an adapter that DeepSpeed ZeRO-3 or FSDP1 has cut up: no bases can be written into the pieces."""
    for name, (layer, adapter) in layers.items():
        left = layer.deeplora_left[adapter]
        by = "DeepSpeed ZeRO-3" if hasattr(left, "ds_id") else "FSDP1" if left.ndim != 2 else None
        if by is not None:
            raise ValueError(
                f"{by} has partitioned the adapter of {name}, so no bases can be written into it; call "
                "initialize_bases before the model is partitioned, or train with DDP or FSDP2 (fully_shard)"
            )
