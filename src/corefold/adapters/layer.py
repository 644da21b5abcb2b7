"""What every layer with Deep LoRA adapters does; `leaves.py` has one class for each kind of layer."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils.quantization_utils import QuantizationBackend, quantization_extra_repr
from torch import Tensor, nn

from corefold.adapters.kept import Kept, keep, put_back
from corefold.adapters.precision import start_products, unrounded
from corefold.adapters.processes import placed_as
from corefold.core import FactorChain, complete

if TYPE_CHECKING:
    from corefold.adapters.config import DeepLoraConfig


def one_sample(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """`(g, x)` with `g^T x` a gradient (out, in) that comes in one piece: I^T G, of a single sample."""
    return torch.eye(len(gradient), dtype=gradient.dtype, device=gradient.device)[None], gradient[None]


class DeepLoraLayer(nn.Module, BaseTunerLayer):
    """The adapters of one layer: for each adapter name one factor chain.

    A leaf says what the chain's `sides` are, how its input meets the right basis (`project`), how the result leaves by
    the left one (`expand`), and how a dense update lies in its weight (`orient`).

    Factors and bases stay float32 (float64 on a float64 base) whatever the base weight's dtype or quantisation: their
    updates are far below what half precision resolves.
    """

    deeplora_factors: nn.ParameterDict
    deeplora_left: nn.ParameterDict
    lora_obstacle: str | None = None  # why PEFT's LoRA cannot do what this layer does
    key = ""  # the layer's name in the model as it was, for `rank_pattern`
    called = True  # False for a weight that PyTorch uses without calling its module
    watch_weight: Callable[[Tensor], Tensor] | None = None  # set in `capture.py`, for such a weight
    extra_repr = quantization_extra_repr  # type: ignore[assignment]
    adapter_layer_names = ("deeplora_factors", "deeplora_left", "deeplora_right")
    other_param_names = ("r", "width", "scaling", "deeplora_config", "deeplora_start", "deeplora_gate")

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        r: int,
        config: DeepLoraConfig,
        backend: QuantizationBackend | None = None,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = backend
        self.left_rows, self.right_shape = self.sides(self.get_base_layer())
        self.in_features, self.out_features = self.right_shape[0], self.left_rows
        self.r: dict[str, int] = {}
        self.width: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.deeplora_config: dict[str, DeepLoraConfig] = {}
        self.deeplora_start: dict[str, dict[torch.dtype, float]] = {}
        self.deeplora_gate: dict[str, Tensor] = {}
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self.merged_adapters: list[str] = []
        self.merge_error = 0.0
        self._before_merge: Kept | None = None
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, config)

    @staticmethod
    def sides(base: Any) -> tuple[int, tuple[int, ...]]:
        """Rows of the left basis, and the shape of one column of the right basis."""
        raise NotImplementedError

    def project(self, x: Tensor, right: Tensor) -> Tensor:
        """The input's coordinates in the right basis; `right` is (right_rows, width)."""
        # F.linear takes nested tensors, unlike @.
        return nn.functional.linear(self._cast_input_dtype(x, right.dtype), right.mT)

    def expand(self, coordinates: Tensor, tall: Tensor) -> Tensor:
        """From coordinates to the output; `tall` is left @ core, (left_rows, width)."""
        return nn.functional.linear(coordinates, tall)

    def orient(self, dense: Tensor) -> Tensor:
        """An update (left_rows, right_rows) as it lies in the base weight."""
        return dense

    def gradient_factors(self, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(g, x)` with `g^T x` the gradient of the weight as the chain sees it, from the output's and the input.

        With more than two axes the first is that of the samples; of two, each row counts as a sample.
        """
        return grad, x

    def update_layer(self, adapter_name: str, r: int, config: DeepLoraConfig) -> None:
        """Add an adapter of rank `r`, at most the weight's smaller side, or replace the one of that name."""
        if r <= 0:
            raise ValueError(f"`r` should be a positive integer value but the value passed is {r}")
        self.scaling[adapter_name] = 1.0
        self.deeplora_config[adapter_name] = config
        self.deeplora_start[adapter_name] = start_products(config.init_scale, config.depth)
        dtype = torch.float64 if self.base_tensor().dtype == torch.float64 else torch.float32
        for name in self.adapter_layer_names:
            getattr(self, name)[adapter_name] = nn.Parameter(torch.empty(0, dtype=dtype))
        self.resize(adapter_name, r)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        if not self.deeplora_factors[adapter_name].is_meta:
            self.reset_adapter(adapter_name)
        self.train_bases(adapter_name, config.basis_lr_ratio > 0)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def resize(self, adapter_name: str, r: int) -> None:
        """Give an adapter new, empty parameters for this rank, trained or frozen as the old ones were."""
        config, side = self.deeplora_config[adapter_name], min(self.left_rows, math.prod(self.right_shape))
        r = self.r[adapter_name] = min(r, side)
        width = self.width[adapter_name] = min(max(r, config.width or r), side)
        shapes = ((config.depth, width, r), (self.left_rows, width), (*self.right_shape, width))
        for name, shape in zip(self.adapter_layer_names, shapes, strict=True):
            old = getattr(self, name)[adapter_name]
            getattr(self, name)[adapter_name] = nn.Parameter(old.new_empty(shape), old.requires_grad)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: Any = None) -> None:
        # PEFT's own also casts to the base's dtype, and so rounds an adapter that it has just loaded.
        self.convert_adapter(adapter_name, device=self.base_tensor().device if device is None else device)

    def convert_adapter(self, adapter_name: str, **to: Any) -> None:
        """Move an adapter to a `device`, or round it to a `dtype`."""
        for tensors in (getattr(self, name) for name in self.adapter_layer_names):
            tensor = tensors.get(adapter_name)
            if tensor is not None and not tensor.is_meta:
                new = tensor.detach().to(**to)
                if (new.device, new.dtype) != (tensor.device, tensor.dtype):
                    tensors[adapter_name] = nn.Parameter(new, tensor.requires_grad)

    def base_tensor(self) -> Tensor:
        """Some tensor of the base layer, to see its device and dtype."""
        return next(itertools.chain(self.get_base_layer().parameters(), self.get_base_layer().buffers()))

    @torch.no_grad()
    def reset_adapter(
        self,
        adapter_name: str,
        left: Float[Tensor, "left_rows width"] | None = None,
        right: Float[Tensor, "right_rows width"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Put the adapter at its start, in place: the given bases (random if None), the factors as a chain begins."""
        config, r, width = self.deeplora_config[adapter_name], self.r[adapter_name], self.width[adapter_name]
        own = self.deeplora_left[adapter_name]
        left = complete(own.new_empty(self.left_rows, 0), width) if left is None else left
        right = complete(own.new_empty(math.prod(self.right_shape), 0), width) if right is None else right
        if r < width:
            start = FactorChain.at_narrow_start(left, right, r, generator)
        else:
            start = FactorChain.at_start(left, right, config.depth, config.init_scale)
        if not config.init_weights:
            start.factors.add_(torch.randn_like(start.factors) / (3 * width**0.5))
        self.set_chain(adapter_name, start)

    @torch.no_grad()
    def set_chain(self, adapter_name: str, chain: FactorChain) -> None:
        """Copy a chain of the adapter's width, rank, depth and start into its parameters."""
        parts = (chain.factors, chain.left, chain.right)
        for own, new in zip(self.tensors(adapter_name), parts, strict=True):
            own.copy_(placed_as(own, new.reshape(own.shape)))

    def tensors(self, adapter_name: str) -> tuple[Tensor, Tensor, Tensor]:
        """An adapter's parameters: factors, left and right basis."""
        factors, left, right = (getattr(self, name)[adapter_name] for name in self.adapter_layer_names)
        return factors, left, right

    def train_bases(self, adapter_name: str, trained: bool) -> None:
        """Let the bases of an adapter train with its core, or freeze them."""
        factors, *bases = self.tensors(adapter_name)
        self.frozen_peft_weight_names[adapter_name] = () if trained else self.adapter_layer_names[1:]
        for basis in bases:
            basis.requires_grad_(trained and factors.requires_grad)

    def chain(self, adapter_name: str) -> FactorChain:
        """The adapter's update of the weight, as a chain over its live parameters, without its `scaling`."""
        factors, left, right = self.tensors(adapter_name)
        square = self.r[adapter_name] == self.width[adapter_name]
        start = self.deeplora_start[adapter_name][factors.dtype] if square else 0.0
        return FactorChain(left, factors, right.flatten(0, -2), start)

    def get_delta_weight(self, adapter: str, scale: float | Tensor | None = None) -> Tensor:
        """The adapter's update of the weight, dense, in the base weight's layout and the factors' dtype."""
        scale = self.scaling[adapter] if scale is None else scale
        with unrounded(self.deeplora_factors[adapter].device.type):
            return self.orient(self.chain(adapter).dense() * scale)

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """The base layer plus the active adapters, or for each row of `x` the adapter named in `adapter_names`."""
        if self.merged and self.disable_adapters:
            self.unmerge()
        if self.merged:
            if adapter_names is not None:
                raise ValueError(
                    "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
                )
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is None or self.disable_adapters:
            scales = self._scales()
            for name in scales:
                self._warn_if_bases_are_random(name)
            return self.adapted(x, scales, *args, **kwargs) if scales else self.base_layer(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        for name in set(adapter_names) & set(self.deeplora_factors):
            rows = torch.tensor([i for i, row in enumerate(adapter_names) if row == name], device=x.device)
            updated = self.updated(result[rows], x[rows], {name: self.scaling[name]})
            result = result.index_copy(0, rows, updated)
        return result

    def adapted(self, x: Tensor, scales: Mapping[str, float | Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """The base layer plus these adapters, each times its scale."""
        return self.updated(self.base_layer(x, *args, **kwargs), x, scales)

    def updated(self, result: Tensor, x: Tensor, scales: Mapping[str, float | Tensor]) -> Tensor:
        """What the base layer made of `x`, plus these adapters."""
        total = result
        with unrounded(x.device.type):
            for name, scale in scales.items():
                coordinates, tall = self.coordinates(x, self.chain(name))
                total = total + self.expand(coordinates, tall * scale)
        return total.to(result.dtype)

    def coordinates(self, x: Tensor, chain: FactorChain) -> tuple[Tensor, Tensor]:
        """What the chain reads off `x`, and the tall matrix that this is to be expanded by."""
        tall, right = chain.thin()
        return self.project(x, right), tall

    def _scales(self) -> Mapping[str, float | Tensor]:
        # Scale and active state enter a compiled graph as tensors, so that it holds for all their values.
        if torch.compiler.is_compiling():
            return self.deeplora_gate
        return {} if self.disable_adapters else {name: self.scaling[name] for name in self._active()}

    def _warn_if_bases_are_random(self, adapter_name: str) -> None:
        trains = (
            self.training and torch.is_grad_enabled() and self.deeplora_factors[adapter_name].requires_grad
        )
        if trains and not torch.compiler.is_compiling():  # a compiled forward cannot warn
            self.deeplora_config[adapter_name].warn_if_bases_are_random()

    def _active(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.deeplora_factors]

    def set_scale(self, adapter: str, scale: float) -> None:
        """Multiply the adapter's update by `scale`, 1 by default; not saved with it, as in PEFT's LoRA."""
        if adapter in self.scaling:
            self.scaling[adapter] = float(scale)
            self._set_gates()

    def scale_layer(self, scale: float) -> None:
        """Multiply the scale of the active adapters."""
        for name in self._active():
            self.set_scale(name, self.scaling[name] * scale)

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the scale of the active adapters, or put it back to 1."""
        for name in self._active():
            self.set_scale(name, 1.0 if scale is None else self.scaling[name] / scale)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode)
        self._set_gates()

    def enable_adapters(self, enabled: bool) -> None:
        """Switch all adapters on or off; unlike PEFT's own, with no change to what requires a gradient."""
        self._disable_adapters = not enabled
        self._set_gates()

    def _set_gates(self) -> None:
        active = () if self._disable_adapters else self.active_adapters
        for name, scale in self.scaling.items():
            gate = scale if name in active else 0.0
            # On the CPU wherever the model is: one number costs less to read there than to move along.
            with torch.inference_mode(False):  # else a compiled model could not train
                self.deeplora_gate[name] = torch.tensor(gate, dtype=torch.float64, device="cpu")

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the base weight, in the factors' precision and rounded once to the weight's.

        What the weight was is kept until `unmerge`, which restores it bit for bit. `merge_error` is the largest
        difference between the exact sum and what the weight's dtype, or quantisation, made of it.
        """
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.deeplora_factors]
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
                self.unmerge()  # a weight that is merged into again is still rounded once
            weight = self.get_base_weight()
            merged = weight.to(torch.promote_types(weight.dtype, torch.float32)) + update
            self._before_merge = keep(self)
            self.set_base_weight(merged.to(weight.dtype))
            self.merge_error = float((self.get_base_weight() - merged).abs().max())
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the base weight back as it was before the first merge."""
        if self._before_merge is None:
            return warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        put_back(self, self._before_merge, self.base_tensor().device)
        self._before_merge, self.merge_error = None, 0.0
        self.merged_adapters.clear()

    def __repr__(self) -> str:
        return "deeplora." + super().__repr__()
