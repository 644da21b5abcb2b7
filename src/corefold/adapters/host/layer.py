"""The adapted layer: everything that a layer with adapters does, whatever the method and the kind of layer."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from peft.utils.quantization_utils import QuantizationBackend, quantization_extra_repr
from torch import Tensor, nn

from corefold.adapters.host.config import AdapterConfig
from corefold.adapters.host.gates import Gates
from corefold.adapters.host.internals import onloaded
from corefold.adapters.host.merging import Merging, SavedWeight
from corefold.adapters.host.precision import without_autocast
from corefold.core import Update, switched


def one_sample(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """`(g, x)` with `g^T x` a gradient (out, in) that comes in one piece: the identity and G, of a single sample."""
    return torch.eye(len(gradient), dtype=gradient.dtype, device=gradient.device)[None], gradient[None]


class AdapterLayer(nn.Module, Gates, Merging):
    """The adapters of one layer: for each adapter name one update of the layer's weight.

    A method says what the update is made of: `build` makes its parameters, `start` puts them at their start, `update`
    is the update over the live parameters. Membership is asked of `r`: a method whose parameters lie on the tuner has
    no parameters in the layer. To change a rank in training, let `update` apply a mask; `build` would replace
    parameters that an optimizer holds.

    A kind of layer (`linear.py` and its neighbours) says how an update meets the input: the `sides` of the weight,
    `project` and `expand` for a thin update, `mapped` for a dense one, and how a dense update lies in the weight
    (`orient`).

    Parameters stay float32 (float64 on a float64 base) whatever the base weight's dtype or quantisation: their updates
    are far below what half precision resolves.

    Args:
        base_layer: the layer to adapt, or a layer of another tuner around it.
        adapter_name: the first adapter.
        r: its rank.
        config: its configuration.
        backend: PEFT's, for a quantised layer.
        options: for `build`, from the tuner's `layer_options`.
    """

    base_classes: tuple[type[nn.Module], ...]  # the layers of this kind
    called = True  # False for a weight that PyTorch uses without calling its module
    lora_obstacle: str | None = None  # why PEFT's LoRA cannot adapt this layer
    key = ""  # the layer's name in the model as it was, for `rank_pattern`
    watch_weight: Callable[[Tensor], Tensor] | None = (
        None  # set by gradient_capture.py, where `called` is False
    )
    extra_repr = quantization_extra_repr  # type: ignore[assignment]
    adapter_layer_names: tuple[str, ...] = ()  # a method's containers of parameters; PEFT's name for them
    other_param_names = ("r", "scaling", "configs", "gates")

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        r: int,
        config: AdapterConfig,
        backend: QuantizationBackend | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = backend
        self.left_rows, self.right_shape = self.sides(self.get_base_layer())
        self.right_rows = math.prod(self.right_shape)
        self.in_features, self.out_features = self.right_shape[0], self.left_rows
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.configs: dict[str, Any] = {}
        self.gates: dict[str, Tensor] = {}
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self.merged_adapters: list[str] = []
        self.merge_error = 0.0
        self.weight_before_merge: SavedWeight | None = None
        self.shared: list[Any] = []  # containers on the tuner; in a list they are no children of the layer
        self.activate(adapter_name)
        self.update_layer(adapter_name, r, config, **options)

    # A method's part.

    @abstractmethod
    def build(self, adapter_name: str, r: int, config: Any, **options: Any) -> None:
        """Make the adapter's parameters for this rank, with `set_parameter`, and note the rank in `self.r`."""

    @abstractmethod
    def start(self, adapter_name: str) -> None:
        """Put the adapter's parameters at their start, in place."""

    @abstractmethod
    def update(self, adapter_name: str) -> Update:
        """The adapter's update of the weight over its live parameters, without its scale."""

    # A kind's part.

    @staticmethod
    @abstractmethod
    def sides(base: Any) -> tuple[int, tuple[int, ...]]:
        """Rows of an update's left side, and the shape of one column of its right side."""

    def project(self, x: Tensor, right: Tensor) -> Tensor:
        """The input's coordinates in the right side, (right_rows, k)."""
        # `linear` takes nested tensors, unlike @.
        return nn.functional.linear(self.cast_input(x, right.dtype), right.mT)

    def expand(self, coordinates: Tensor, tall: Tensor) -> Tensor:
        """The output that belongs to coordinates, by the left side, (left_rows, k)."""
        return nn.functional.linear(coordinates, tall)

    def mapped(self, x: Tensor, weight: Tensor) -> Tensor:
        """The base layer's map with another weight, and no bias."""
        return nn.functional.linear(self.cast_input(x, weight.dtype), weight)

    def orient(self, dense: Tensor) -> Tensor:
        """An update (left_rows, right_rows) as it lies in the base weight."""
        return dense

    def thin(self, update: Update) -> tuple[Tensor, Tensor] | None:
        """The update's thin pair, in the form that this kind of layer applies fastest."""
        return update.thin()

    def admissible(self, right: Tensor) -> Tensor:
        """A right side, (right_rows, k), with zeros where a layer of this kind must not change.

        A method with a thin update passes its right side through this when it starts.
        """
        return right

    def gradient_factors(self, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(g, x)` with `g^T x` the weight's gradient as an update sees it, from the output's gradient and the input.

        With more than two axes the first is that of the samples; of two, each row counts as a sample.
        """
        return grad, x

    # The life of an adapter.

    def update_layer(self, adapter_name: str, r: int, config: Any, **options: Any) -> None:
        """Add an adapter of rank `r`, or replace the one of that name.

        Raises:
            ValueError: a rank that is not positive.
        """
        if r <= 0:
            raise ValueError(f"`r` should be a positive integer value but the value passed is {r}")
        self.scaling[adapter_name] = 1.0
        self.configs[adapter_name] = config
        for tensors in self.containers():
            if adapter_name in tensors:
                del tensors[adapter_name]
        self.build(adapter_name, r, config, **options)
        self.convert_adapter(adapter_name, device=self.base_tensor().device)
        if not any(tensor.is_meta for tensor in self.tensors(adapter_name)):
            self.start(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def containers(self) -> list[Any]:
        """The layer's containers of parameters, by adapter name, in the order of `adapter_layer_names`."""
        return [getattr(self, name) for name in self.adapter_layer_names]

    def tensors(self, adapter_name: str) -> tuple[Tensor, ...]:
        """An adapter's parameters in this layer, in the order of `adapter_layer_names`."""
        return tuple(container[adapter_name] for container in self.containers() if adapter_name in container)

    def set_parameter(self, container: str, adapter_name: str, shape: tuple[int, ...]) -> None:
        """Give an adapter a new, empty parameter; one that it replaces hands on dtype, device and `requires_grad`."""
        tensors = getattr(self, container)
        if adapter_name in tensors:
            old = tensors[adapter_name]
            tensors[adapter_name] = nn.Parameter(old.new_empty(shape), old.requires_grad)
        else:
            dtype = torch.float64 if self.base_tensor().dtype == torch.float64 else torch.float32
            tensors[adapter_name] = nn.Parameter(torch.empty(shape, dtype=dtype))

    def convert_adapter(self, adapter_name: str, **to: Any) -> None:
        """Move an adapter to a `device`, or round it to a `dtype`."""
        for tensors in self.containers():
            tensor = tensors.get(adapter_name)
            if tensor is not None and not tensor.is_meta:
                new = tensor.detach().to(**to)
                if (new.device, new.dtype) != (tensor.device, tensor.dtype):
                    tensors[adapter_name] = nn.Parameter(new, tensor.requires_grad)

    def base_tensor(self) -> Tensor:
        """Some tensor of the base layer, to see its device and dtype."""
        return next(itertools.chain(self.get_base_layer().parameters(), self.get_base_layer().buffers()))

    # What the layer computes.

    def get_delta_weight(self, adapter: str, scale: float | Tensor | None = None) -> Tensor:
        """The adapter's update of the weight, dense, in the base weight's layout and the update's dtype."""
        scale = self.scaling[adapter] if scale is None else scale
        with without_autocast(self.base_tensor().device.type):
            return self.orient(switched(self.update(adapter).dense(), scale) * scale)

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """The base layer plus the active adapters, or for each row of `x` the adapter named in `adapter_names`."""
        if torch.compiler.is_compiling():
            return self._forward(x, adapter_names, *args, **kwargs)
        with onloaded([*self.containers(), *self.shared]):
            return self._forward(x, adapter_names, *args, **kwargs)

    def _forward(self, x: Tensor, adapter_names: list[str] | None, *args: Any, **kwargs: Any) -> Tensor:
        if self.merged and self.disable_adapters:
            self.unmerge()
        if self.merged:
            if adapter_names is not None:
                raise ValueError(
                    "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
                )
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is None or self.disable_adapters:
            scales = self.scales()
            self.check(scales)
            return self.adapted(x, scales, *args, **kwargs) if scales else self.base_layer(x, *args, **kwargs)
        result, present = self.base_layer(x, *args, **kwargs), {*adapter_names} & self.r.keys()
        self.check(present)
        for name in present:
            rows = torch.tensor([i for i, row in enumerate(adapter_names) if row == name], device=x.device)
            updated = self.updated(result[rows], x[rows], {name: self.scaling[name]})
            result = result.index_copy(0, rows, updated)
        return result

    def adapted(self, x: Tensor, scales: Mapping[str, float | Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """The base layer plus these adapters, each times its scale."""
        return self.updated(self.base_layer(x, *args, **kwargs), x, scales)

    def updated(self, result: Tensor, x: Tensor, scales: Mapping[str, float | Tensor]) -> Tensor:
        """The base layer's output for `x`, plus these adapters."""
        total = result
        with without_autocast(x.device.type):
            for name, scale in scales.items():
                total = total + self._contribution(x, self.update(name), scale)
        return total.to(result.dtype)

    def _contribution(self, x: Tensor, update: Update, scale: float | Tensor) -> Tensor:
        # Every factor is switched, not the result: the gradient of `x` must not meet an inactive adapter's NaN either.
        thin = self.thin(update)
        if thin is None:
            return self.mapped(x, self.orient(switched(update.dense(), scale))) * scale
        tall, right = thin
        return self.expand(self.coordinates(x, right, scale), switched(tall, scale) * scale)

    def coordinates(self, x: Tensor, right: Tensor, scale: float | Tensor) -> Tensor:
        """`project`, without an inactive adapter's numbers."""
        return self.project(x, switched(right, scale))

    def check(self, adapter_names: Iterable[str]) -> None:
        """Refuse adapters whose parameters hold no numbers, and let the configuration of one that trains warn.

        Raises:
            ValueError: parameters on the meta device.
        """
        if torch.compiler.is_compiling():
            return  # A compiled forward pass can neither warn nor raise.
        training = self.training and torch.is_grad_enabled()
        for name in adapter_names:
            tensors = self.tensors(name)
            if any(tensor.is_meta for tensor in tensors) and not self.base_tensor().is_meta:
                raise ValueError(
                    f"adapter {name!r} of {self.key or 'this layer'} has no numbers yet: its parameters are on the "
                    "meta device; load them before the model runs"
                )
            if training and any(tensor.requires_grad for tensor in tensors):
                self.configs[name].warn_before_training()

    def __repr__(self) -> str:
        method = next((config.method for config in self.configs.values()), "adapter")
        return f"{method}." + super().__repr__()
