"""The kind of layer that nearly all adapters are on: a linear map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from corefold.adapters.host.internals import is_bare, is_transformed
from corefold.adapters.host.layer import AdapterLayer
from corefold.core import adapted_linear

DENSE_CLASSES = (Tensor, nn.Parameter)


class LinearKind(AdapterLayer):
    """`nn.Linear`, quantised or not, and transformers' `Conv1D`, which keeps its weight as (in, out)."""

    base_classes = (nn.Linear, Conv1D)

    def __init__(self, base_layer: Any, *args: Any, **kwargs: Any) -> None:
        # When it is evaluated on some CPUs, bitsandbytes packs a 4-bit weight anew, in a form that neither passes
        # gradients nor can be read back.
        state = getattr(getattr(base_layer, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ValueError(
                "bitsandbytes packed this 4-bit weight for inference on the CPU when the model was evaluated, which "
                "leaves it without gradients; load the model anew and add the adapter before evaluating it"
            )
        if hasattr(base_layer, "support_avx512bf16_for_cpu"):
            base_layer.support_avx512bf16_for_cpu = False
        super().__init__(base_layer, *args, **kwargs)

    @staticmethod
    def sides(base: Any) -> tuple[int, tuple[int, ...]]:
        if isinstance(base, Conv1D):
            in_, out = base.weight.shape
            return out, (in_,)
        return base.out_features, (base.in_features,)

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether the base weight is (in, out)."""
        return isinstance(self.get_base_layer(), Conv1D)

    def orient(self, dense: Tensor) -> Tensor:
        return dense.mT if self.fan_in_fan_out else dense

    def mapped(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().mapped(x, weight.mT if self.fan_in_fan_out else weight)

    def adapted(self, x: Tensor, scales: Mapping[str, float | Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self._is_plain(x):
            return super().adapted(x, scales, *args, **kwargs)
        base: Any = self.base_layer
        weight = base.weight.mT if self.fan_in_fan_out else base.weight
        return adapted_linear(x, weight, base.bias, [*map(self.update, scales)], [*scales.values()])

    def updated(self, result: Tensor, x: Tensor, scales: Mapping[str, float | Tensor]) -> Tensor:
        if not _is_dense(x) or not _is_dense(result):
            return super().updated(result, x, scales)
        return adapted_linear(x, None, None, [*map(self.update, scales)], [*scales.values()], base=result)

    def _is_plain(self, x: Tensor) -> bool:
        """Whether the base layer does nothing but multiply by its weight and add its bias."""
        base: Any = self.base_layer
        return (
            type(base) in self.base_classes
            and _is_dense(x)
            and type(base.weight) in DENSE_CLASSES
            and (x.dtype == base.weight.dtype or torch.is_autocast_enabled(x.device.type))
            and is_bare(base)
        )

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether PEFT's own conversion to LoRA takes this layer."""
        return True


def _is_dense(x: Tensor) -> bool:
    """Whether the tensor is an ordinary one: no subclass, not nested, not inside a transform of `torch.func`."""
    return type(x) in DENSE_CLASSES and not x.is_nested and not is_transformed()
