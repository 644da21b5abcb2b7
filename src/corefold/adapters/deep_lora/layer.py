"""The layers that carry Deep LoRA adapters."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from corefold.adapters.host import (
    AdapterLayer,
    AttentionKind,
    ConvolutionKind,
    EmbeddingKind,
    LinearKind,
)
from corefold.adapters.host.distributed import placed_as
from corefold.core import DeepCore, PairCore, complete, start_product

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class DeepLoraLayer(AdapterLayer):
    """For each adapter two bases around a core: a `PairCore`, or a square `DeepCore` where `width` is the rank."""

    deeplora_factors: nn.ParameterDict
    deeplora_left: nn.ParameterDict
    adapter_layer_names = ("deeplora_factors", "deeplora_left", "deeplora_right")
    other_param_names = (*AdapterLayer.other_param_names, "width", "start_products")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.width: dict[str, int] = {}
        self.start_products: dict[str, dict[torch.dtype, float]] = {}
        super().__init__(*args, **kwargs)

    def build(self, adapter_name: str, r: int, config: Any, **options: Any) -> None:
        """Make factors and bases; rank and width are at most the weight's smaller side."""
        side = min(self.left_rows, self.right_rows)
        self.r[adapter_name] = r = min(r, side)
        self.width[adapter_name] = width = min(max(r, config.width or r), side)
        # Models may be cast to any of these, and the start must cancel exactly in each.
        self.start_products[adapter_name] = {
            dtype: start_product(config.init_scale, config.depth, dtype) for dtype in DTYPES
        }
        shapes = ((config.depth, width, r), (self.left_rows, width), (*self.right_shape, width))
        for container, shape in zip(self.adapter_layer_names, shapes, strict=True):
            self.set_parameter(container, adapter_name, shape)
        self.train_bases(adapter_name, config.basis_lr_ratio > 0)

    def has_pair_core(self, adapter_name: str) -> bool:
        """Whether the adapter's core is a pair in wider bases, and not square."""
        return self.r[adapter_name] < self.width[adapter_name]

    @torch.no_grad()
    def start(
        self,
        adapter_name: str,
        left: Float[Tensor, "left_rows width"] | None = None,
        right: Float[Tensor, "right_rows width"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Put the adapter at its start, in place.

        Args:
            adapter_name: which adapter.
            left: basis of the output side; default random.
            right: basis of the input side; default random.
            generator: source of a pair core's `Q`.
        """
        config, width = self.configs[adapter_name], self.width[adapter_name]
        empty = self.deeplora_left[adapter_name].new_empty
        left = complete(empty(self.left_rows, 0), width) if left is None else left
        right = complete(empty(self.right_rows, 0), width) if right is None else right
        if self.has_pair_core(adapter_name):
            update = PairCore.at_start(left, right, self.r[adapter_name], generator)
        else:
            update = DeepCore.at_start(left, right, config.depth, config.init_scale)
        if not config.init_weights:
            update.factors.add_(torch.randn_like(update.factors) / (3 * width**0.5))
        self.set_update(adapter_name, update)

    @torch.no_grad()
    def set_update(self, adapter_name: str, update: DeepCore | PairCore) -> None:
        """Copy an update of the adapter's class and shapes into its parameters."""
        parts = (update.factors, update.left, self.admissible(update.right))
        for own, new in zip(self.tensors(adapter_name), parts, strict=True):
            own.copy_(placed_as(own, new.reshape(own.shape)))

    def update(self, adapter_name: str) -> DeepCore | PairCore:
        """The adapter's update over its live parameters."""
        factors, left, right = self.tensors(adapter_name)
        right = right.flatten(0, -2)
        if self.has_pair_core(adapter_name):
            return PairCore(left, factors, right)
        return DeepCore(left, factors, right, self.start_products[adapter_name][factors.dtype])

    def train_bases(self, adapter_name: str, trained: bool) -> None:
        """Let the bases of an adapter train with its core, or freeze them."""
        factors, *bases = self.tensors(adapter_name)
        self.frozen_peft_weight_names[adapter_name] = () if trained else self.adapter_layer_names[1:]
        for basis in bases:
            basis.requires_grad_(trained and factors.requires_grad)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode)
        for name, frozen in self.frozen_peft_weight_names.items():  # PEFT 0.20 does not look at them.
            self.train_bases(name, trained=not frozen)


class DeepLoraLinear(LinearKind, DeepLoraLayer):
    """Deep LoRA on a linear map."""


class DeepLoraEmbedding(EmbeddingKind, DeepLoraLayer):
    """Deep LoRA on an embedding."""

    # The name tells a saved adapter's embeddings from its linear layers.
    adapter_layer_names = ("deeplora_factors", "deeplora_left", "deeplora_embedding")


class DeepLoraConv(ConvolutionKind, DeepLoraLayer):
    """Deep LoRA on a convolution."""


class DeepLoraMultiheadAttention(AttentionKind, DeepLoraLayer):
    """Deep LoRA on an attention whose projections PyTorch never calls."""

    linear_class = DeepLoraLinear
