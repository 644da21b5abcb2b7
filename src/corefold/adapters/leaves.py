"""The layers that can carry Deep LoRA adapters: what of `DeepLoraLayer` depends on the kind of layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook
from transformers.pytorch_utils import Conv1D

from corefold.adapters.layer import DeepLoraLayer, one_sample
from corefold.core import FactorChain, adapted_linear

if TYPE_CHECKING:
    from corefold.adapters.config import DeepLoraConfig

DENSE = (Tensor, nn.Parameter)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class DeepLoraLinear(DeepLoraLayer):
    """`nn.Linear`, quantised or not, and transformers' `Conv1D`, which keeps its weight as (in, out)."""

    def __init__(self, base_layer: Any, *args: Any, **kwargs: Any) -> None:
        # As it is evaluated on some CPUs, bitsandbytes packs a 4-bit weight anew, in a form that neither passes
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
        fan_in, fan_out = (
            base.weight.shape if isinstance(base, Conv1D) else (base.in_features, base.out_features)
        )
        return fan_out, (fan_in,)

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether the base weight is (in, out)."""
        return isinstance(self.get_base_layer(), Conv1D)

    def orient(self, dense: Tensor) -> Tensor:
        return dense.mT if self.fan_in_fan_out else dense

    def adapted(self, x: Tensor, scales: Mapping[str, float | Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self._is_plain(x):
            return super().adapted(x, scales, *args, **kwargs)
        base: Any = self.base_layer
        weight = base.weight.mT if self.fan_in_fan_out else base.weight
        return adapted_linear(x, weight, base.bias, [*map(self.chain, scales)], [*scales.values()])

    def updated(self, result: Tensor, x: Tensor, scales: Mapping[str, float | Tensor]) -> Tensor:
        if not _is_dense(x) or not _is_dense(result):
            return super().updated(result, x, scales)
        return adapted_linear(x, None, None, [*map(self.chain, scales)], [*scales.values()], base=result)

    def _is_plain(self, x: Tensor) -> bool:
        """Whether the base layer does nothing but multiply by its weight and add its bias."""
        base: Any = self.base_layer
        return (
            type(base) in (nn.Linear, Conv1D)
            and _is_dense(x)
            and type(base.weight) in DENSE
            and (x.dtype == base.weight.dtype or torch.is_autocast_enabled(x.device.type))
            and not any(vars(base)[hooks] for hooks in HOOKS)
            and "forward" not in vars(base)
            and not _has_any_global_hook()
        )

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True


class DeepLoraEmbedding(DeepLoraLayer):
    """`nn.Embedding`: a linear map of one-hot rows, so that its right basis is looked up, not multiplied."""

    # The name tells a saved adapter's embeddings from its linear layers.
    adapter_layer_names = ("deeplora_factors", "deeplora_left", "deeplora_embedding")

    @staticmethod
    def sides(base: Any) -> tuple[int, tuple[int, ...]]:
        return base.embedding_dim, (base.num_embeddings,)

    def project(self, x: Tensor, right: Tensor) -> Tensor:
        table: Any = self.get_base_layer()
        rows = functional.embedding(x, right, table.padding_idx, scale_grad_by_freq=table.scale_grad_by_freq)
        scale = self._get_embed_scale()  # some models scale what they look up
        return rows if scale is None else rows * scale.to(rows.dtype)

    def coordinates(self, x: Tensor, chain: FactorChain) -> tuple[Tensor, Tensor]:
        # Few rows are looked up of many; and what the table does to its own gradient is not for the core's.
        return self.project(x, chain.right), chain.left @ chain.core()

    def orient(self, dense: Tensor) -> Tensor:
        return dense.mT

    def set_chain(self, adapter_name: str, chain: FactorChain) -> None:
        table: Any = self.get_base_layer()
        if table.padding_idx is not None:  # the vector of padding gets no gradient, and so never changes
            right = chain.right.clone()
            right[table.padding_idx] = 0
            chain = replace(chain, right=right)
        super().set_chain(adapter_name, chain)

    def gradient_factors(self, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        table: Any = self.get_base_layer()
        tokens, ids = x.numel(), x.reshape(1, -1)
        ones = torch.ones(tokens, dtype=grad.dtype, device=grad.device)
        if table.padding_idx is not None:
            ones *= ids[0] != table.padding_idx
        scale = self._get_embed_scale()
        rows = torch.cat([torch.arange(tokens, device=ids.device)[None], ids])
        one_hot = torch.sparse_coo_tensor(
            rows,
            ones if scale is None else ones * scale,
            (tokens, table.num_embeddings),
            check_invariants=False,
        )
        return grad.reshape(tokens, -1), one_hot.coalesce()


class DeepLoraConv(DeepLoraLayer):
    """`nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`: the right basis is `width` kernels, the left one a convolution by 1.

    All groups share the kernels, and each has its own rows of the left basis: the update is one of the weight
    (out, in / groups, *kernel), as for any other layer.
    """

    @staticmethod
    def sides(base: Any) -> tuple[int, tuple[int, ...]]:
        return base.weight.shape[0], tuple(base.weight.shape[1:])

    @property
    def groups(self) -> int:
        """Groups of the convolution."""
        return self.get_base_layer().groups  # type: ignore[return-value]

    @property
    def lora_obstacle(self) -> str | None:
        conv: Any = self.get_base_layer()
        if conv.groups == 1 and {*conv.dilation} == {1} and conv.padding_mode == "zeros":
            return None
        return "has groups, dilation or a padding mode, which PEFT's LoRA does not take up"

    def project(self, x: Tensor, right: Tensor) -> Tensor:
        conv: Any = self.get_base_layer()
        kernels = right.mT.reshape(-1, *self.right_shape).repeat(self.groups, *[1] * len(self.right_shape))
        # The layer's own convolution with other kernels: its stride, padding, padding mode and dilation.
        return conv._conv_forward(self._cast_input_dtype(x, right.dtype), kernels, None)

    def expand(self, coordinates: Tensor, tall: Tensor) -> Tensor:
        space = len(self.right_shape) - 1
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[space - 1]
        return convolve(coordinates, tall.reshape(*tall.shape, *[1] * space), groups=self.groups)

    def orient(self, dense: Tensor) -> Tensor:
        return dense.reshape(-1, *self.right_shape)

    def gradient_factors(self, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        # A kernel's gradient is no product of two small factors: the weight's own, dense, for this layer and batch.
        conv: Any = self.get_base_layer()
        with torch.enable_grad():
            weight = conv.weight.detach().requires_grad_()
            (dense,) = torch.autograd.grad(conv._conv_forward(x, weight, None), weight, grad)
        return one_sample(dense.flatten(1))


class DeepLoraMultiheadAttention(DeepLoraLayer):
    """`nn.MultiheadAttention`: one chain for `in_proj_weight`, and `out_proj` as a layer of its own.

    PyTorch calls neither projection as a module, so the attention runs with updated weights in their place.
    """

    called = False
    lora_obstacle = "is an attention, whose output projection PEFT's LoRA (0.21) updates twice"

    def __init__(self, base_layer: Any, adapter_name: str, r: int, config: DeepLoraConfig) -> None:
        if not base_layer._qkv_same_embed_dim:
            raise ValueError("nn.MultiheadAttention needs queries, keys and values of one size")
        base_layer.out_proj = DeepLoraLinear(base_layer.out_proj, adapter_name, r, config)
        base_layer.out_proj.called = False
        super().__init__(base_layer, adapter_name, r, config)

    @staticmethod
    def sides(base: Any) -> tuple[int, tuple[int, ...]]:
        return base.in_proj_weight.shape[0], (base.in_proj_weight.shape[1],)

    @property
    def weight(self) -> Tensor:
        """The projection of queries, keys and values, (3 dim, dim)."""
        return self.get_base_layer().in_proj_weight  # type: ignore[return-value]

    @property
    def out_proj(self) -> DeepLoraLinear:
        """The output projection, a layer with adapters of its own."""
        return self.get_base_layer().out_proj  # type: ignore[return-value]

    def get_base_weight(self) -> Tensor:
        return self.weight.data

    def set_base_weight(self, weight_data: Tensor) -> None:
        self.weight.data = weight_data

    def update_layer(self, adapter_name: str, r: int, config: DeepLoraConfig) -> None:
        super().update_layer(adapter_name, r, config)
        if adapter_name not in self.out_proj.r:
            self.out_proj.update_layer(adapter_name, r, config)

    def forward(
        self, query: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> Any:
        if adapter_names is not None:
            raise TypeError("nn.MultiheadAttention does not support mixed adapter batches")
        attention = self.get_base_layer()
        with ExitStack() as stack:
            for layer, owner, parameter in (
                (self, attention, "in_proj_weight"),
                (self.out_proj, self.out_proj.get_base_layer(), "weight"),
            ):
                if layer.merged and self.disable_adapters:
                    layer.unmerge()
                scales = {} if layer.merged else layer._scales()
                for name in scales:
                    layer._warn_if_bases_are_random(name)
                if scales or layer.watch_weight is not None:
                    weight = layer.weight + sum(layer.get_delta_weight(*pair) for pair in scales.items())
                    weight = weight.to(layer.weight.dtype)
                    weight = weight if layer.watch_weight is None else layer.watch_weight(weight)
                    stack.enter_context(_shown_as(owner, parameter, weight))
            return self.base_layer(query, *args, **kwargs)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Called by PEFT, which does not look for adapted layers inside an adapted layer."""
        attention: Any = self.get_base_layer()
        if merge:
            for layer in (self, self.out_proj):
                layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        attention.out_proj = self.out_proj.get_base_layer()
        return attention

    def __getattr__(self, name: str) -> Any:
        # An enclosing nn.TransformerEncoderLayer asks for the attention's settings.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)


def _is_dense(x: Tensor) -> bool:
    """Whether the tensor is an ordinary one: no subclass, not nested, not inside a functorch transform."""
    return type(x) in DENSE and not x.is_nested and not _are_functorch_transforms_active()


@contextmanager
def _shown_as(module: nn.Module, name: str, tensor: Tensor) -> Iterator[None]:
    """Let a module find `tensor` under a parameter's name; the parameter itself stays where it is.

    `torch.func.functional_call` would do, but for FSDP, whose views of its shards lie in the way.
    """
    own = module.__dict__
    before = own.get(name)
    own[name] = tensor
    try:
        yield
    finally:
        del own[name]
        if before is not None:
            own[name] = before


def leaf_of(base: nn.Module, backend: QuantizationBackend | None) -> type[DeepLoraLayer] | None:
    """The class that adapts a layer; None if there is none."""
    if backend is not None:
        return DeepLoraLinear if backend.layer_type == "linear" else None
    kinds: dict[tuple[type[nn.Module], ...], type[DeepLoraLayer]] = {
        (nn.Linear, Conv1D): DeepLoraLinear,
        (nn.Embedding,): DeepLoraEmbedding,
        (nn.Conv1d, nn.Conv2d, nn.Conv3d): DeepLoraConv,
        (nn.MultiheadAttention,): DeepLoraMultiheadAttention,
    }
    if not all(tensor.is_floating_point() for tensor in base.parameters()):
        return None
    return next((leaf for classes, leaf in kinds.items() if isinstance(base, classes)), None)
