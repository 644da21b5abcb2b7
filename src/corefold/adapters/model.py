"""The tuner that puts Deep LoRA into a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import AuxiliaryTrainingWrapper, get_pattern_key
from torch import Tensor, nn

from corefold.adapters.config import DeepLoraConfig
from corefold.adapters.layer import DeepLoraLayer, DeepLoraLinear


class DeepLoraModel(BaseTuner):
    """A model whose targeted layers carry Deep LoRA adapters; made by `peft.get_peft_model`."""

    prefix = "deeplora_"
    tuner_layer_cls = DeepLoraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

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
        try:
            if isinstance(target, DeepLoraLayer):
                target.update_layer(adapter_name, r, config)
                return
            base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
            if not isinstance(base, nn.Linear) or not base.weight.is_floating_point():
                raise TypeError(
                    f"Target module {base} is not supported. Deep LoRA adapts torch.nn.Linear layers; leave "
                    f"{current_key} out of target_modules or name it in exclude_modules."
                )
            new_module = DeepLoraLinear(target, adapter_name, r, config).train(target.training)
        except ValueError as error:
            raise ValueError(f"{current_key}: {error}") from error
        if adapter_name not in self.active_adapters:
            new_module.requires_grad_(False)
        self._replace_module(parent, target_name, new_module, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        # PEFT's own goes on to hand weight and bias over, which a saved head of several layers does not have; ours keep
        # the base layer whole and come on its device.
        setattr(parent, child_name, new_module)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: DeepLoraConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        # PEFT itself only warns of a missing tensor, and goes on with a random one.
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        for path, layer in model.named_modules():
            if isinstance(layer, DeepLoraLayer) and adapter_name in layer.deeplora_factors:
                for part in layer.adapter_layer_names:
                    name = f"{path}.{part}".replace("_fsdp_wrapped_module.", "")
                    if f"{name}.{adapter_name}" not in remapped:
                        raise ValueError(f"tensor {name} is missing from the adapter")
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
        layers = [module for module in self.modules() if isinstance(module, DeepLoraLayer)]
        known = {name for layer in layers for name in layer.deeplora_factors}
        if unknown := {*names} - known - {"__base__"}:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}")
        # Heads trained in full (modules_to_save) also differ from adapter to adapter.
        handles = [
            module.register_forward_pre_hook(partial(_add_names, names), with_kwargs=True)
            for module in self.modules()
            if isinstance(module, (DeepLoraLayer, AuxiliaryTrainingWrapper))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _add_names(names: list[str], module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    if len(args[0]) != len(names):
        raise ValueError(
            "Length of `adapter_names` should be the same as the number of inputs, but got "
            f"{len(names)} and {len(args[0])} respectively."
        )
    return args, {**kwargs, "adapter_names": names}
