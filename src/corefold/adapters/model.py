"""The tuner that puts Deep LoRA into a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import AuxiliaryTrainingWrapper, get_pattern_key
from peft.utils.quantization_utils import get_quantization_kwargs, resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from corefold.adapters.config import DeepLoraConfig
from corefold.adapters.layer import DeepLoraLayer
from corefold.adapters.leaves import leaf_of
from corefold.adapters.weighted import add_weighted

FSDP = "_fsdp_wrapped_module."


class DeepLoraModel(BaseTuner):
    """A model whose targeted layers carry Deep LoRA adapters; made by `peft.get_peft_model`."""

    prefix = "deeplora_"
    tuner_layer_cls = DeepLoraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    add_weighted_adapter = add_weighted

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        config: Any = self.peft_config[adapter_name]
        self.peft_config[adapter_name] = config.for_an_adapter()
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _create_and_replace(
        self,
        config: DeepLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        *,
        parameter_name: str | None = None,
    ) -> None:
        r = config.rank_pattern.get(get_pattern_key([*config.rank_pattern], current_key), config.r)
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if isinstance(base, Conv1D):
            config.decide(fan_in_fan_out=True)
        if isinstance(target, DeepLoraLayer):
            if (
                target.called or adapter_name not in target.r
            ):  # an attention has brought its output projection
                target.update_layer(adapter_name, r, config)
            return
        backend = resolve_quantization_backend(base, **get_quantization_kwargs(self))
        leaf = leaf_of(base, backend)
        if leaf is None:
            raise TypeError(
                f"Target module {base} is not supported. Deep LoRA adapts torch.nn.Linear, Embedding, Conv1d, Conv2d, "
                "Conv3d and MultiheadAttention, transformers' Conv1D, and quantised linear layers; leave "
                f"{current_key} out of target_modules or name it in exclude_modules."
            )
        if isinstance(parent, nn.MultiheadAttention):
            raise TypeError(
                f"Target module {current_key} is not supported by itself: nn.MultiheadAttention never calls it. Target "
                "the attention, which adapts its output projection too, or name it in exclude_modules."
            )
        new_module = leaf(
            target, adapter_name, r, config, **({} if backend is None else {"backend": backend})
        )
        if isinstance(parent, nn.TransformerEncoderLayer):
            # Its fused path would read the bare weights, and is not taken where a layer has a hook.
            new_module.register_forward_pre_hook(_pass_on)
        new_module.key = current_key
        new_module.train(target.training)
        if adapter_name not in self.active_adapters:
            new_module.requires_grad_(False)
        self._replace_module(parent, target_name, new_module, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        # PEFT's own goes on to hand weight and bias over, which a saved head of several layers does not have; ours keep
        # the base layer whole and come on its device.
        setattr(parent, child_name, new_module)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # `autocast_adapter_dtype=False` is how PEFT's users ask for an adapter in the base's dtype.
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        for layer in self.adapted_layers().values() if not autocast_adapter_dtype else ():
            if layer.base_tensor().is_floating_point():
                layer.convert_adapter(adapter_name, dtype=layer.base_tensor().dtype)

    def adapted_layers(self) -> dict[str, DeepLoraLayer]:
        """The adapted layers, by module name."""
        return {name: m for name, m in self.model.named_modules() if isinstance(m, DeepLoraLayer)}

    def merge_errors(self) -> dict[str, float]:
        """For each merged layer the largest error that the weight's dtype or quantisation made, by module name."""
        return {name: layer.merge_error for name, layer in self.adapted_layers().items() if layer.merged}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # PEFT only warns of a tensor that the file lacks, and goes on with a random one.
        super()._load_from_state_dict(state_dict, prefix, *args)
        if FSDP not in prefix:  # FSDP1 may have taken some out by now
            adapters = {key.rpartition(".")[2] for key in state_dict if f".{self.prefix}" in key}
            missing = _missing(self.model, f"{prefix}model.", adapters, state_dict)
            args[-1].extend(f"tensor {name} is missing from the adapter" for name in missing)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: DeepLoraConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        # The same for a model into which the adapter was injected, which has no DeepLoraModel; PEFT 0.21 only.
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        if missing := _missing(model, "", {adapter_name}, remapped):
            raise ValueError(f"tensor {missing[0]} is missing from the adapter")
        return remapped

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        # PEFT calls this around every forward; without it `adapter_names=` would be dropped in silence.
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        known = {name for layer in self.adapted_layers().values() for name in layer.deeplora_factors}
        if unknown := {*names} - known - {"__base__"}:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}")
        beams = kwargs.get("num_beams")
        beams = beams if isinstance(beams, int) else 1
        # Heads trained in full (modules_to_save) also differ from adapter to adapter.
        handles = [
            module.register_forward_pre_hook(partial(_add_names, names, beams), with_kwargs=True)
            for module in self.modules()
            if isinstance(module, (DeepLoraLayer, AuxiliaryTrainingWrapper))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _missing(model: nn.Module, prefix: str, adapters: set[str], state_dict: dict[str, Any]) -> list[str]:
    """What a state dict lacks of the adapters whose tensors it should hold."""
    return [
        name
        for path, layer in model.named_modules()
        if isinstance(layer, DeepLoraLayer)
        for adapter in adapters & layer.r.keys()
        for part in layer.adapter_layer_names
        if f"{(name := f'{prefix}{path}.{part}'.replace(FSDP, ''))}.{adapter}" not in state_dict
    ]


def _pass_on(module: nn.Module, args: Any) -> None:
    pass


def _add_names(
    names: list[str], beams: int, module: nn.Module, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    rows = len(args[0] if args else next(iter(kwargs.values())))
    if rows == len(names) * beams:  # beam search repeats each row, though not for an encoder
        names = [name for name in names for _ in range(beams)]
    if rows != len(names):
        raise ValueError(
            "Length of `adapter_names` should be the same as the number of inputs, but got "
            f"{len(names)} and {rows} respectively."
        )
    return args, {**kwargs, "adapter_names": names}
