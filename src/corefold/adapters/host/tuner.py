"""The tuner that puts adapters into a model."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import get_pattern_key
from peft.utils.quantization_utils import (
    QuantizationBackend,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from corefold.adapters.host.internals import FSDP1_PREFIX, PeftTuner
from corefold.adapters.host.layer import AdapterLayer
from corefold.adapters.host.linear import LinearKind
from corefold.adapters.host.mixed_batches import rows_name_adapters


class AdapterTuner(PeftTuner):
    """A model whose targeted layers carry adapters of one method; made by `peft.get_peft_model`.

    A method sets `prefix` (its name and an underscore), `tuner_layer_cls` (its layer) and `layer_classes` (one for each
    kind of layer that it adapts). If layers share parameters, it sets `uses_shared_state` and `shared_names`: `share`
    makes the parameters on the tuner, and `layer_options` hands their containers to each layer's `build`, which puts
    them into `layer.shared`. (Not the parameters themselves: loading may replace them.)
    """

    layer_classes: tuple[type[AdapterLayer], ...]
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def share(self, adapter_name: str, config: Any, model: nn.Module) -> None:
        """Make parameters that the layers of an adapter share, before there is any layer."""

    def share_parameter(self, container: str, adapter_name: str, values: Tensor) -> None:
        """Put a trained parameter of an adapter into a container on the tuner, where the model's numbers are."""
        if not hasattr(self, container):
            setattr(self, container, nn.ParameterDict())
        like = next(p for p in self.model.parameters() if p.is_floating_point())
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        getattr(self, container)[adapter_name] = nn.Parameter(values.to(like.device, dtype))

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode)
        active = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        for container in self.shared_names:
            for name, parameter in getattr(self, container).items():
                parameter.requires_grad_(name in active and not inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        for container in self.shared_names:
            del getattr(self, container)[adapter_name]

    def layer_options(self, adapter_name: str, config: Any, key: str) -> dict[str, Any]:
        """Further keyword arguments for the layer at `key`, given to its `__init__` and `update_layer`."""
        return {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        config: Any = self.peft_config[adapter_name]
        if not config.inference_mode:  # A loaded adapter's configuration is its own already.
            # Settings that wrapping or data decides must not reach another adapter made of the same object.
            config = self.peft_config[adapter_name] = copy.deepcopy(config)
        self.share(adapter_name, config, model)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def adapt(
        self, config: Any, adapter_name: str, target: nn.Module, name: str, parent: nn.Module, key: str
    ) -> None:
        r = config.rank_pattern.get(get_pattern_key([*config.rank_pattern], key), config.r)
        options = self.layer_options(adapter_name, config, key)
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if isinstance(base, Conv1D):
            config.fan_in_fan_out = True
        if isinstance(target, self.tuner_layer_cls):
            # An attention has brought its output projection with it.
            if target.called or adapter_name not in target.r:  # type: ignore[union-attr]
                target.update_layer(adapter_name, r, config, **options)  # type: ignore[operator]
            return
        backend = resolve_quantization_backend(base, **get_quantization_kwargs(self))
        layer_class = self._layer_class(base, backend)
        if layer_class is None:
            raise TypeError(
                f"Target module {base} is not supported. {config.title} adapts {self._supported()}; leave {key} out of "
                "target_modules or name it in exclude_modules."
            )
        if isinstance(parent, nn.MultiheadAttention):
            raise TypeError(
                f"Target module {key} is not supported by itself: nn.MultiheadAttention never calls it. Target "
                "the attention, which adapts its output projection too, or name it in exclude_modules."
            )
        if backend is not None:
            options["backend"] = backend
        layer = layer_class(target, adapter_name, r, config, **options)
        if isinstance(parent, nn.TransformerEncoderLayer):
            # Its fused path would read the bare weights. PyTorch does not take that path where a layer has a hook.
            layer.register_forward_pre_hook(_pass_on)
        layer.key = key
        layer.train(target.training)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        setattr(parent, name, layer)

    def cast_adapter(self, adapter_name: str, keep_float32: bool) -> None:
        # `autocast_adapter_dtype=False` is how PEFT's users ask for an adapter in the base's dtype.
        for layer in () if keep_float32 else self.adapted_layers().values():
            if layer.base_tensor().is_floating_point():
                layer.convert_adapter(adapter_name, dtype=layer.base_tensor().dtype)

    def adapted_layers(self) -> dict[str, Any]:
        """The adapted layers, by module name."""
        return {name: m for name, m in self.model.named_modules() if isinstance(m, self.tuner_layer_cls)}

    def merge_errors(self) -> dict[str, float]:
        """For each merged layer the largest error of rounding or quantising its weight, by module name."""
        return {name: layer.merge_error for name, layer in self.adapted_layers().items() if layer.merged}

    @classmethod
    def missing_tensors(
        cls, model: nn.Module, prefix: str, adapters: set[str], state: dict[str, Any]
    ) -> list[str]:
        return [
            name
            for path, layer in model.named_modules()
            if isinstance(layer, cls.tuner_layer_cls)
            for adapter in adapters & layer.r.keys()  # type: ignore[operator]
            for container in layer.adapter_layer_names
            if f"{(name := f'{prefix}{path}.{container}'.replace(FSDP1_PREFIX, ''))}.{adapter}" not in state
        ]

    def forward_hooks(self, arguments: dict[str, Any]) -> AbstractContextManager[None]:
        return rows_name_adapters(self, arguments)

    def _layer_class(self, base: nn.Module, backend: QuantizationBackend | None) -> type[AdapterLayer] | None:
        """The class that adapts a layer; None if there is none."""
        if backend is not None:
            classes = self.layer_classes if backend.layer_type == "linear" else ()
            return next((each for each in classes if issubclass(each, LinearKind)), None)
        if not all(tensor.is_floating_point() for tensor in base.parameters()):
            return None
        return next((each for each in self.layer_classes if isinstance(base, each.base_classes)), None)

    def _supported(self) -> str:
        classes = [each for layer in self.layer_classes for each in layer.base_classes]
        names = [
            "transformers' Conv1D" if each is Conv1D else f"torch.nn.{each.__name__}" for each in classes
        ]
        return f"{', '.join(names)}, and quantised linear layers"


def _pass_on(module: nn.Module, args: Any) -> None:
    pass
