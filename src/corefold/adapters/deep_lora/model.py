"""The tuner that puts Deep LoRA into a model."""

from __future__ import annotations

from corefold.adapters.deep_lora.layer import (
    DeepLoraConv,
    DeepLoraEmbedding,
    DeepLoraLayer,
    DeepLoraLinear,
    DeepLoraMultiheadAttention,
)
from corefold.adapters.deep_lora.weighted import add_weighted
from corefold.adapters.host import AdapterTuner


class DeepLoraModel(AdapterTuner):
    """A model whose targeted layers carry Deep LoRA adapters; made by `peft.get_peft_model`."""

    prefix = "deeplora_"
    tuner_layer_cls = DeepLoraLayer
    layer_classes = (DeepLoraLinear, DeepLoraEmbedding, DeepLoraConv, DeepLoraMultiheadAttention)
    add_weighted_adapter = add_weighted
