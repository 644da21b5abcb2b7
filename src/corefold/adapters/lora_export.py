"""Adapters as plain LoRA: exact, factored, and without directions that no layer needs."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import pad

from corefold.adapters.host.config import AdapterConfig, SavedUpdate
from corefold.adapters.host.layer import AdapterLayer
from corefold.adapters.host.model_card import CARD, write_card
from corefold.core import Update
from corefold.tables.whole_folder import whole_folder

PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraExport:
    """A plain LoRA that `export_lora` wrote.

    Attributes:
        directory: where the LoRA adapter lies.
        rank: its rank, that of every layer.
        needed: the number of directions that each layer needs for the tolerance, by module name; `rank` is the largest.
        bytes: size of the LoRA weights.
        bytes_at_full_width: their size with no direction dropped.
    """

    directory: Path
    rank: int
    needed: dict[str, int]
    bytes: int
    bytes_at_full_width: int

    @property
    def bytes_saved(self) -> int:
        """Bytes that the dropped directions would have taken."""
        return self.bytes_at_full_width - self.bytes

    def __str__(self) -> str:
        return (
            f"LoRA of {len(self.needed)} layers, rank {self.rank}, {self.bytes:,} bytes "
            f"({self.bytes_saved:,} saved) in {self.directory}"
        )


def export_lora(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    adapter_name: str | None = None,
    tolerance: float | None = None,
) -> LoraExport:
    """Write an adapter as a plain LoRA, which stock PEFT and LoRA servers load without corefold.

    Every layer gets the same rank, with `lora_alpha` equal to it: servers differ in how they scale unequal ranks
    (llama.cpp by a tensor's own, vLLM by the configuration's, SGLang refuses them), and PEFT does not hot-swap them.

    Args:
        model: a model with the adapter, wrapped by PEFT or with the adapter injected; or a module around such a model,
            as SentenceTransformer is.
        directory: where to write; made if missing.
        adapter_name: which adapter; default the active one.
        tolerance: largest relative error (Frobenius) of each layer's update. The rank is the largest that any layer
            needs for it. Default: all directions are kept.

    Raises:
        ValueError: no such adapter, one of a method that is not corefold's, one that is no low-rank update, or one that
            adapts a layer that PEFT's LoRA cannot (`lora_obstacle`); a tolerance outside [0, 1).
    """
    model = _adapted_part(model)
    configs = getattr(model, "peft_config", {})
    if adapter_name is None:
        active: Any = getattr(model, "active_adapters", None) or getattr(model, "active_adapter", [])
        # It is a method in transformers, a property in PEFT.
        active = active() if callable(active) else active
        names = [active] if isinstance(active, str) else [*active]
        if len(names) != 1:
            raise ValueError(f"adapter_name= must say which adapter to export; active: {names or 'none'}")
        adapter_name = str(names[0])
    config = configs.get(adapter_name)
    if not isinstance(config, AdapterConfig):
        raise ValueError(
            f"{adapter_name!r} is not a Deep LoRA adapter of this model; it has {[*configs] or 'none'}"
        )
    for path, layer in model.named_modules():
        if isinstance(layer, AdapterLayer) and adapter_name in layer.r and layer.lora_obstacle:
            raise ValueError(
                f"{path} {layer.lora_obstacle}; merge the adapter, or leave the layer out with exclude_modules"
            )
    state = get_peft_model_state_dict(model, adapter_name=adapter_name)
    return to_lora(config, state, directory, tolerance)


def _adapted_part(model: nn.Module) -> nn.Module:
    """The model that has adapters: `model` itself, or the one part of it that has."""
    if getattr(model, "peft_config", None):
        return model
    parts = [part for part in model.modules() if isinstance(getattr(part, "peft_config", None), dict)]
    # A PEFT model shows its configurations on the tuner in it too.
    outer = [
        part for part in parts if not any(part is not other and part in {*other.modules()} for other in parts)
    ]
    return outer[0] if len(outer) == 1 else model


def to_lora(
    config: AdapterConfig,
    state: Mapping[str, Tensor],
    directory: str | os.PathLike[str],
    tolerance: float | None = None,
) -> LoraExport:
    """`export_lora` of a saved adapter: its configuration and its state dict, as PEFT saves it."""
    if offloaded := [name for name, tensor in state.items() if tensor.is_meta]:
        raise ValueError(f"{offloaded[0]} is on the meta device; export before accelerate offloads the model")
    saved = config.saved_updates(state)
    if full := [name for name, each in saved.items() if each.update.thin() is None]:
        raise ValueError(
            f"{full[0]} has an update of full rank, which no LoRA can hold; merge the adapter instead"
        )
    needed = {name: each.update.collapse(tol=tolerance)[1].shape[0] for name, each in saved.items()}
    rank, widest = max(needed.values()), max(each.update.rank for each in saved.values())
    tensors = {
        f"{PREFIX}{name.removeprefix(PREFIX)}": tensor
        for name, tensor in state.items()
        if not name.rpartition(".")[2].startswith(f"{config.method}_")
    }
    size = 0
    for name, each in saved.items():
        pair = _lora_pair(name.removeprefix(PREFIX), each, rank)
        tensors |= {f"{PREFIX}{key}": tensor for key, tensor in pair.items()}
        size += sum(tensor.nbytes for tensor in pair.values())
    lora, directory = _lora_config(config, rank), Path(directory)
    with whole_folder(directory) as new:
        if (directory / CARD).exists():  # Its text stays if somebody has edited it.
            shutil.copyfile(directory / CARD, new / CARD)
        lora.save_pretrained(str(new))
        save_tensors(tensors, new / "adapter_model.safetensors")
        write_card(new, lora, "LoRA", _how_to_load(lora))
    return LoraExport(directory, rank, _without_prefix(needed), size, size // rank * widest)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, each whole, as PEFT does: the format refuses tied weights, which share memory."""
    written: dict[str, Tensor] = {}
    memories: set[int] = set()
    for name, tensor in tensors.items():
        whole = tensor.detach().cpu().contiguous()
        memory = whole.untyped_storage().data_ptr()
        written[name] = whole.clone() if memory in memories else whole
        memories.add(memory)
    save_file(written, path, metadata={"format": "pt"})


def saved_updates(config: AdapterConfig, state: Mapping[str, Tensor]) -> dict[str, Update]:
    """The update of each layer of a saved adapter, by module name.

    Raises:
        ValueError: no layer, a missing tensor or shapes that do not fit together; the tensor is named.
    """
    return {name: each.update for name, each in _without_prefix(config.saved_updates(state)).items()}


def _without_prefix(by_name: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(PREFIX): value for name, value in by_name.items()}


def _lora_pair(name: str, saved: SavedUpdate, rank: int) -> dict[str, Tensor]:
    """A layer's pair under the names, and in the shapes, that PEFT's LoRA has for its kind of layer."""
    own_rank = min(rank, saved.update.rank)
    b, a = saved.update.collapse(rank=own_rank)
    missing = rank - own_rank  # A layer may be narrower than the rank.
    b, a = pad(b, (0, missing)), pad(a, (0, 0, 0, missing))
    if saved.embedding:
        return {f"{name}.lora_embedding_A": a, f"{name}.lora_embedding_B": b}
    channels = a.shape[1] // math.prod(saved.kernel)
    return {
        f"{name}.lora_A.weight": a.reshape(-1, channels, *saved.kernel),
        f"{name}.lora_B.weight": b.reshape(*b.shape, *[1] * len(saved.kernel)),
    }


def _how_to_load(lora: LoraConfig) -> str:
    if lora.modules_to_save or lora.trainable_token_indices or lora.bias != "none":
        return (
            "A plain LoRA with layers trained in full beside it: PEFT loads it, without corefold; most servers take\n"
            "low-rank updates alone."
        )
    return "A plain LoRA: any tool that reads PEFT's LoRA format loads it; corefold is not needed."


def _lora_config(config: AdapterConfig, rank: int) -> LoraConfig:
    layers, bias = config.layers_to_transform, "lora_only" if config.bias.endswith("_only") else config.bias
    return LoraConfig(
        r=rank,
        lora_alpha=rank,  # This makes the scale alpha / r = 1.
        fan_in_fan_out=config.fan_in_fan_out,
        target_modules=config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=[layers] if isinstance(layers, int) else layers,  # PEFT 0.20 takes 0 for unset.
        layers_pattern=config.layers_pattern,
        modules_to_save=config.modules_to_save,
        trainable_token_indices=config.trainable_token_indices,
        bias=bias,  # type: ignore[arg-type]
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
    )
