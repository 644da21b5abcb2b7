"""Every private name of PEFT, transformers and torch that corefold uses, under a public name of its own.

When one of them changes, this file changes and no other. tests/adapters/host/test_internals.py asks whether each still
exists and does what its docstring here says.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from enum import Enum
from typing import Any, TypeVar

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.peft_types import PeftType
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active
from torch.nn.modules.module import _has_any_global_hook

Member = TypeVar("Member", bound=Enum)

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
FSDP1_PREFIX = "_fsdp_wrapped_module."
"""FSDP1 puts this into the names of the modules that it wraps."""


def enum_member(enum: type[Member], name: str) -> Member:
    """The member `name` of a string enum, added with the value `name` if the enum lacks it.

    PEFT (0.20, 0.21) accepts only methods whose name is in its `PeftType` enum, and has no public way to add one. A
    plain string does not do, because transformers and PEFT read `peft_type.value`.
    """
    if name in enum.__members__:
        return enum[name]
    member = str.__new__(enum, name)  # type: ignore[type-var]
    member._name_ = member._value_ = name
    member.__objclass__ = enum
    member._sort_order_ = len(enum._member_names_)
    enum._member_names_.append(name)
    enum._member_map_[name] = member
    enum._value2member_map_[name] = member
    type.__setattr__(enum, name, member)
    return member


def peft_type(method: str) -> PeftType:
    """PEFT's member for a method, such as `PeftType.DEEPLORA` for `"deeplora"`."""
    return enum_member(PeftType, method.upper())


def saves_biases() -> bool:
    """Whether this PEFT saves biases that a tuner trains; 0.20 does not."""
    return hasattr(BaseTuner, "_get_learnable_bias_state_dict")


class PeftLayer(BaseTunerLayer):
    """PEFT's layer, its private parts under public names."""

    r: dict[str, int]
    cast_input_dtype_enabled = True  # PEFT's `disable_input_dtype_casting` turns it off and on.

    @abstractmethod
    def convert_adapter(self, adapter_name: str, **to: Any) -> None:
        """Move an adapter to a `device`, or round it to a `dtype`."""

    @abstractmethod
    def base_tensor(self) -> Tensor:
        """Some tensor of the base layer, to see its device and dtype."""

    def activate(self, adapter_names: str | list[str]) -> None:
        """Set which adapters are active, with no change to what requires a gradient."""
        self._active_adapter = adapter_names

    def switch(self, enabled: bool) -> None:
        """Switch all adapters on or off, with no change to what requires a gradient."""
        self._disable_adapters = not enabled

    def cast_input(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`x` in this dtype, unless PEFT's `disable_input_dtype_casting` is on."""
        return self._cast_input_dtype(x, dtype)

    def embedding_scale(self) -> Tensor | None:
        """The number by which some models multiply what their embedding looks up."""
        return self._get_embed_scale()

    def _get_available_adapters(self) -> set[str]:
        return {
            *self.r
        }  # PEFT looks into containers of parameters, which a layer with shared state does not have.

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: Any = None) -> None:
        # PEFT's own also casts to the base's dtype, and so rounds an adapter that it has just loaded.
        self.convert_adapter(adapter_name, device=self.base_tensor().device if device is None else device)


class PeftTuner(BaseTuner):
    """PEFT's tuner, the private methods that it calls under public names.

    Attributes:
        shared_names: containers of parameters, by adapter name, that lie on the tuner because layers share them.
    """

    shared_names: tuple[str, ...] = ()

    @abstractmethod
    def adapt(
        self, config: Any, adapter_name: str, target: nn.Module, name: str, parent: nn.Module, key: str
    ) -> None:
        """Put an adapter on `target`, the child `name` of `parent`; `key` is its path in the model."""

    def cast_adapter(self, adapter_name: str, keep_float32: bool) -> None:
        """Called once an adapter is in place; otherwise than `keep_float32` it takes the base's dtype."""

    @classmethod
    @abstractmethod
    def missing_tensors(
        cls, model: nn.Module, prefix: str, adapters: set[str], state: dict[str, Any]
    ) -> list[str]:
        """The names of tensors of these adapters that a state dict lacks."""

    @abstractmethod
    def forward_hooks(self, arguments: dict[str, Any]) -> AbstractContextManager[None]:
        """A context in which the model runs with these keyword arguments."""

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        *,
        parameter_name: str | None = None,
    ) -> None:
        self.adapt(peft_config, adapter_name, target, target_name, parent, current_key)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        # PEFT's own goes on to hand over weight and bias, which an attention does not have.
        setattr(parent, child_name, new_module)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        self.cast_adapter(adapter_name, autocast_adapter_dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # PEFT only warns of a tensor that the file lacks, and goes on with a random one.
        super()._load_from_state_dict(state_dict, prefix, *args)
        if FSDP1_PREFIX not in prefix:  # FSDP1 may have taken some tensors out by now.
            adapters = {key.rpartition(".")[2] for key in state_dict if f".{self.prefix}" in key}
            missing = self.missing_tensors(self.model, f"{prefix}model.", adapters, state_dict)
            for name in (f"{prefix}{container}" for container in self.shared_names):
                missing += [name for adapter in adapters if f"{name}.{adapter}" not in state_dict]
            args[-1].extend(f"tensor {name} is missing from the adapter" for name in missing)

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor], **others: Any
    ) -> dict[str, Tensor]:
        # PEFT 0.21 looks for tensors in layers only.
        own = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, **others)
        return own | {key: state_dict[key] for key in cls._shared_keys(adapter_name) if key in state_dict}

    @classmethod
    def _shared_keys(cls, adapter_name: str) -> list[str]:
        return [f"base_model.{container}.{adapter_name}" for container in cls.shared_names]

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        shared = {key.removesuffix(f".{adapter_name}"): key for key in cls._shared_keys(adapter_name)}
        remapped = {shared.get(key, key): tensor for key, tensor in remapped.items()}
        # A model into which the adapter was injected has no tuner that would ask this; PEFT 0.21 only.
        if missing := cls.missing_tensors(model, "", {adapter_name}, remapped):
            raise ValueError(f"tensor {missing[0]} is missing from the adapter")
        return remapped

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        # PEFT calls this around every forward pass. Without it `adapter_names=` would be dropped in silence.
        with self.forward_hooks(kwargs):
            yield


def is_bare(module: nn.Module) -> bool:
    """Whether calling a module does nothing but its class's forward: no hooks, nobody has replaced `forward`."""
    return (
        not any(vars(module)[hooks] for hooks in HOOKS)
        and "forward" not in vars(module)
        and not _has_any_global_hook()
    )


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is running, such as `vmap` or `grad`."""
    return _are_functorch_transforms_active()


def convolved(convolution: Any, x: Tensor, kernels: Tensor) -> Tensor:
    """A convolution's own map with other kernels: its stride, padding, padding mode and dilation; no bias."""
    return convolution._conv_forward(x, kernels, None)


def has_one_size(attention: Any) -> bool:
    """Whether queries, keys and values of an `nn.MultiheadAttention` have one size, and so one weight."""
    return attention._qkv_same_embed_dim


def own_state(module: nn.Module) -> dict[str, Any]:
    """A module's attributes, with copies of its tables of parameters and buffers; `vars().update` restores them."""
    return vars(module) | {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}


@contextmanager
def onloaded(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Load the parameters of modules that accelerate has offloaded, for as long as the context lasts.

    accelerate loads them when a module is called, and nobody calls a container of parameters.
    """
    with ExitStack() as stack:
        for module in modules:
            hook = vars(module).get("_hf_hook")
            if hook is not None:
                stack.callback(hook.post_forward, module, None)
                hook.pre_forward(module)
        yield


def uncompiled(model: nn.Module) -> nn.Module:
    """The model inside a compiled one, whose module names are those of the user; any other model itself."""
    return getattr(model, "_orig_mod", model)


def give_lora_ga_gradient(layer: Any, gradient: Tensor) -> None:
    """Lay a weight's gradient where the LoRA-GA start of PEFT's LoRA layer looks for it."""
    layer.get_base_layer()._peft_loraga_grad = gradient


@contextmanager
def metrics_restored(trainer: Any) -> Iterator[None]:
    """Restores what TRL's trainers have gathered so far: the loss of a batch for the bases is no training loss."""
    import copy

    before = copy.deepcopy(getattr(trainer, "_metrics", None))
    yield
    if before is not None:
        trainer._metrics = before
