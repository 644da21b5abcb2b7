"""The cores of a whole model, computed together before its forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from corefold.adapters.layer import DeepLoraLayer
from corefold.adapters.precision import unrounded
from corefold.core import batched_cores

DENSE = (Tensor, nn.Parameter)
_saving_hooks = getattr(getattr(torch._C, "_autograd", None), "_top_saved_tensors_default_hooks", None)


@contextmanager
def prepared_cores(layers: Iterable[DeepLoraLayer]) -> Iterator[None]:
    """Give the layers the cores of their active adapters, for the forward pass inside."""
    alike: dict[Any, list[tuple[DeepLoraLayer, str]]] = defaultdict(list)
    if not torch.compiler.is_compiling():
        for layer in layers:
            for name in () if layer.merged else layer._scales():
                if (key := _key(layer, name)) is not None:
                    alike[key].append((layer, name))
    prepared: dict[DeepLoraLayer, dict[str, Tensor]] = defaultdict(dict)
    for (_, start, device, _), group in alike.items():
        if len(group) > 1:
            with unrounded(device.type):
                cores = batched_cores([layer.deeplora_factors[name] for layer, name in group], start)
            for (layer, name), core in zip(group, cores, strict=True):
                prepared[layer][name] = core
    try:
        for layer, cores in prepared.items():
            layer.prepared_cores = cores
        yield
    finally:
        for layer in prepared:
            layer.prepared_cores = {}


def cores_at_hand(layer: DeepLoraLayer, names: Iterable[str]) -> list[Tensor | None] | None:
    """The prepared cores of these adapters; None if none may be used here."""
    if torch.compiler.is_compiling() or not layer.prepared_cores:
        return None
    # Where what autograd saves is intercepted, the forward may run again later on, and must find the same: no cores.
    if _saving_hooks is None or _saving_hooks(False) is not None:
        return None
    return [layer.prepared_cores.get(name) for name in names]


def _key(layer: DeepLoraLayer, name: str) -> Any:
    """What adapters have in common whose cores make one batch; None for one that is not at hand in full."""
    factors = layer.deeplora_factors[name]
    depth, width = layer.deeplora_config[name].depth, layer.r[name]
    if type(factors) not in DENSE or factors.shape != (depth, width, width):  # sharded
        return None
    return factors.shape, layer.deeplora_start[name][factors.dtype], factors.device, factors.dtype
