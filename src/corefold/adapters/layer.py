"""Layers that carry Deep LoRA adapters."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.amp import is_autocast_available

from corefold.core import FactorChain, complete, start_product

if TYPE_CHECKING:
    from corefold.adapters.config import DeepLoraConfig


class DeepLoraLayer(BaseTunerLayer):
    """The adapters of one layer: for each adapter name one factor chain.

    Factors and bases stay float32 (float64 on a float64 base) whatever the base weight's dtype: their updates are
    far below what half precision resolves.
    """

    adapter_layer_names = ("deeplora_factors", "deeplora_left", "deeplora_right")
    other_param_names = ("r", "deeplora_config", "deeplora_start")

    def __init__(self, base_layer: nn.Module, in_features: int, out_features: int) -> None:
        self.base_layer = base_layer
        self.in_features, self.out_features = in_features, out_features
        self.r: dict[str, int] = {}
        self.deeplora_config: dict[str, DeepLoraConfig] = {}
        self.deeplora_start: dict[str, float] = {}
        self.deeplora_factors = nn.ParameterDict()
        self.deeplora_left = nn.ParameterDict()
        self.deeplora_right = nn.ParameterDict()
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._weight_before_merge: Tensor | None = None

    def update_layer(self, adapter_name: str, r: int, config: DeepLoraConfig) -> None:
        """Add an adapter of width `r`, or replace the one of that name."""
        if r <= 0:
            raise ValueError(f"`r` should be a positive integer value but the value passed is {r}")
        if r > min(self.in_features, self.out_features):
            raise ValueError(
                f"r={r} exceeds the smaller side of a layer of {self.out_features} x {self.in_features}; "
                f"choose r <= {min(self.in_features, self.out_features)}, a smaller one for it in rank_pattern, or "
                "leave it out with exclude_modules"
            )
        self.r[adapter_name] = r
        self.deeplora_config[adapter_name] = config
        self.deeplora_factors[adapter_name] = nn.Parameter(torch.empty(config.depth, r, r))
        self.deeplora_left[adapter_name] = nn.Parameter(torch.empty(self.out_features, r))
        self.deeplora_right[adapter_name] = nn.Parameter(torch.empty(self.in_features, r))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        dtype = self.deeplora_factors[adapter_name].dtype
        self.deeplora_start[adapter_name] = start_product(config.init_scale, config.depth, dtype)
        if not self.deeplora_factors[adapter_name].is_meta:
            self.reset_adapter(adapter_name)
        self.train_bases(adapter_name, config.basis_lr_ratio > 0)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        # PEFT's own also casts to the base's dtype, and so rounds an adapter that it has just loaded.
        weight = self.weight
        where = weight.device if device is None else device
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        for tensors in (getattr(self, name) for name in self.adapter_layer_names):
            tensor = tensors.get(adapter_name)
            if tensor is not None and not tensor.is_meta and (tensor.device, tensor.dtype) != (where, dtype):
                tensors[adapter_name] = nn.Parameter(tensor.detach().to(where, dtype), tensor.requires_grad)

    @torch.no_grad()
    def reset_adapter(
        self,
        adapter_name: str,
        left: Float[Tensor, "out width"] | None = None,
        right: Float[Tensor, "in width"] | None = None,
    ) -> None:
        """Put the adapter at its start, in place: the given bases (random if None), every factor init_scale * I."""
        config, width = self.deeplora_config[adapter_name], self.r[adapter_name]
        own_left, own_right = self.deeplora_left[adapter_name], self.deeplora_right[adapter_name]
        left = complete(own_left.new_empty(self.out_features, 0), width) if left is None else left
        right = complete(own_right.new_empty(self.in_features, 0), width) if right is None else right
        chain = FactorChain.at_start(left, right, config.depth, config.init_scale)
        own_left.copy_(chain.left)
        own_right.copy_(chain.right)
        factors = self.deeplora_factors[adapter_name]
        factors.copy_(chain.factors)
        if not config.init_weights:
            factors.add_(torch.randn_like(factors) / (3 * width**0.5))

    def train_bases(self, adapter_name: str, trained: bool) -> None:
        """Let the bases of an adapter train with its core, or freeze them."""
        frozen = () if trained else ("deeplora_left", "deeplora_right")
        self.frozen_peft_weight_names[adapter_name] = frozen
        for name in ("deeplora_left", "deeplora_right"):
            basis = getattr(self, name)[adapter_name]
            basis.requires_grad_(trained and self.deeplora_factors[adapter_name].requires_grad)

    def chain(self, adapter_name: str) -> FactorChain:
        """The adapter's update of the weight, as a chain over its live parameters."""
        return FactorChain(
            self.deeplora_left[adapter_name],
            self.deeplora_factors[adapter_name],
            self.deeplora_right[adapter_name],
            self.deeplora_start[adapter_name],
        )

    def get_delta_weight(self, adapter: str) -> Float[Tensor, "out in"]:
        """The adapter's update of the weight, dense, in the factors' dtype."""
        return self.chain(adapter).dense()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the base weight, in the factors' precision and rounded once to the weight's.

        A copy of the weight is kept until `unmerge`, which restores it bit for bit.
        """
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.deeplora_factors]
        if not names:
            return
        weight = self.get_base_weight()
        merged = weight.to(torch.promote_types(weight.dtype, torch.float32))
        with torch.no_grad():
            for name in names:
                merged = merged + self.get_delta_weight(name)
                if safe_merge and not torch.isfinite(merged).all():
                    raise ValueError(
                        f"NaNs detected in the merged weights. The adapter {name} seems to be broken"
                    )
        if self._weight_before_merge is None:
            self._weight_before_merge = weight
        self.set_base_weight(merged.to(weight.dtype))
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the base weight back as it was before the first merge."""
        if not self.merged or self._weight_before_merge is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.set_base_weight(
            self._weight_before_merge.to(self.get_base_weight())
        )  # the model may have moved since
        self._weight_before_merge = None
        self.merged_adapters.clear()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Any chain is a LoRA: see `corefold.export_lora`, which needs no dense matrix."""
        return True


class DeepLoraLinear(nn.Module, DeepLoraLayer):
    """`nn.Linear` with Deep LoRA adapters."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, r: int, config: DeepLoraConfig) -> None:
        super().__init__()
        linear: Any = base_layer.get_base_layer() if isinstance(base_layer, BaseTunerLayer) else base_layer
        DeepLoraLayer.__init__(self, base_layer, linear.in_features, linear.out_features)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, config)

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """The base layer plus the active adapters, or for each row of `x` the adapter named in `adapter_names`."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        if self.merged:
            if adapter_names is not None:
                raise ValueError("adapter_names needs unmerged adapters; call unmerge_adapter() first")
            return result
        dtype = result.dtype
        if adapter_names is None:
            for name in self.active_adapters:
                if name in self.deeplora_factors:
                    result = result + self._update(name, x)
            return result.to(dtype)
        for name in set(adapter_names) & set(self.deeplora_factors):
            rows = torch.tensor([i for i, row in enumerate(adapter_names) if row == name], device=x.device)
            result = result.index_add(0, rows, self._update(name, x[rows]).to(dtype))
        return result

    def _update(self, adapter_name: str, x: Tensor) -> Tensor:
        chain, kind = self.chain(adapter_name), x.device.type
        learns = self.training and chain.factors.requires_grad and torch.is_grad_enabled()
        if learns and not torch.compiler.is_compiling():  # a compiled forward cannot warn
            self.deeplora_config[adapter_name].warn_if_bases_are_random()
        # The core is a small difference of products, which autocast would round away.
        exact = torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext()
        with exact:
            return chain(self._cast_input_dtype(x, chain.left.dtype))

    def __repr__(self) -> str:
        return "deeplora." + super().__repr__()
