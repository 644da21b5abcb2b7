"""Merging adapters into a layer's base weight, and taking them out again to the last bit."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn

from corefold.adapters.host.internals import PeftLayer, own_state

SavedWeight = Tensor | list[tuple[Any, dict[str, Any]]]


class Merging(PeftLayer):
    """A layer whose adapters can be merged into its base weight."""

    base_layer: nn.Module
    quantization_backend: QuantizationBackend | None
    merged_adapters: list[str]
    merge_error: float
    weight_before_merge: SavedWeight | None

    @abstractmethod
    def get_delta_weight(self, adapter: str) -> Tensor:
        """An adapter's update, dense, in the base weight's layout."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the base weight, in the updates' precision and rounded once to the weight's.

        The weight from before is kept until `unmerge`, which restores it bit for bit. `merge_error` is the largest
        difference between the exact sum and the rounded, or quantised, weight.

        Raises:
            ValueError: with `safe_merge`, if an update holds a number that is not finite.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.r]
        if not names:
            return
        names = [*self.merged_adapters, *names]
        update: Any = 0
        with torch.no_grad():
            for name in names:
                update = self.get_delta_weight(name) + update
                if safe_merge and not torch.isfinite(update).all():
                    raise ValueError(
                        f"NaNs detected in the merged weights. The adapter {name} seems to be broken"
                    )
            if self.merged:
                self.unmerge()  # All updates are added at once, so that the weight is rounded once.
            weight = self.get_base_weight()
            merged = weight.to(torch.promote_types(weight.dtype, torch.float32)) + update
            self.weight_before_merge = _saved_weight(self)
            self.set_base_weight(merged.to(weight.dtype))
            self.merge_error = float((self.get_base_weight() - merged).abs().max())
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the base weight back as it was before the first merge."""
        if self.weight_before_merge is None:
            return warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        _restore(self, self.weight_before_merge)
        self.weight_before_merge, self.merge_error = None, 0.0
        self.merged_adapters.clear()


def _saved_weight(layer: Merging) -> SavedWeight:
    """The base weight; for a quantised layer each object that its backend replaces or writes to, and its attributes.

    Those are the base layer, its parameters and, for bitsandbytes, the state beside them.
    """
    if layer.quantization_backend is None:
        return layer.get_base_weight()
    base: Any = layer.get_base_layer()
    parts = [*base.parameters(), *([base.state] if hasattr(base, "state") else [])]
    return [(base, own_state(base)), *((part, dict(vars(part))) for part in parts)]


def _restore(layer: Merging, saved: SavedWeight) -> None:
    """Undo every change of the base weight since `_saved_weight`; the model may have moved to another device."""
    device = layer.base_tensor().device
    if isinstance(saved, Tensor):
        layer.set_base_weight(saved.to(device, layer.get_base_weight().dtype))
        return
    for part, attributes in saved:
        vars(part).update(attributes)
    layer.base_layer = saved[0][0].to(device)
