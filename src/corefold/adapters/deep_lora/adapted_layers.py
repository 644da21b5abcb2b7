"""The Deep LoRA layers of a model."""

from __future__ import annotations

from torch import nn

from corefold.adapters.deep_lora.layer import DeepLoraLayer

AdaptedLayers = dict[str, tuple[DeepLoraLayer, str]]
"""Layers by module name, each with the name of the adapter that is meant."""


def adapted_layers(model: nn.Module, adapter_name: str | None = None) -> AdaptedLayers:
    """The layers that carry an adapter (default: the active one), by module name, and the adapter's name.

    Raises:
        ValueError: no such adapter, several active ones, or one that is merged into the weights.
    """
    layers: AdaptedLayers = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, DeepLoraLayer):
            continue
        active = layer.running()
        if adapter_name is None and len(active) > 1:
            raise ValueError(
                f"several adapters are active ({', '.join(active)}); say which with adapter_name="
            )
        name = adapter_name if adapter_name is not None else next(iter(active), None)
        if name is not None and name in layer.r:
            if layer.merged:
                raise ValueError("an adapter is merged into the weights; call unmerge_adapter() first")
            layers[path] = (layer, name)
    if not layers:
        wanted = (
            "an active Deep LoRA adapter" if adapter_name is None else f"a Deep LoRA adapter {adapter_name!r}"
        )
        raise ValueError(f"no layer of the model has {wanted}; wrap the model with a DeepLoraConfig first")
    return layers
