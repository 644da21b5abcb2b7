"""A layer's base weight as it was before a merge, kept so that unmerging restores every bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from corefold.adapters.layer import DeepLoraLayer

Kept = Tensor | list[tuple[Any, dict[str, Any]]]


def keep(layer: DeepLoraLayer) -> Kept:
    """What `put_back` needs: the weight, or what a quantisation backend replaces or writes to in its place.

    The latter is the base layer, its weight and, for bitsandbytes, the state beside them; unless the backend replaces
    the whole layer.
    """
    if layer.quantization_backend is None:
        return layer.get_base_weight()
    base: Any = layer.get_base_layer()
    own = vars(base) | {"_parameters": dict(base._parameters), "_buffers": dict(base._buffers)}
    others = [*base.parameters(), *([base.state] if hasattr(base, "state") else [])]
    return [(base, own), *((part, dict(vars(part))) for part in others)]


def put_back(layer: DeepLoraLayer, kept: Kept, device: torch.device) -> None:
    """Undo what was done to the base weight since `keep`; the model may have moved to another device."""
    if isinstance(kept, Tensor):
        layer.set_base_weight(kept.to(device, layer.get_base_weight().dtype))
        return
    for part, own in kept:
        vars(part).update(own)
    layer.base_layer = kept[0][0].to(device)
