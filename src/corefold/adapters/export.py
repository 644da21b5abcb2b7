"""Deep LoRA as plain LoRA: exact, factored, and without directions that no layer needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import pad

from corefold.adapters.card import write_card
from corefold.adapters.config import DeepLoraConfig
from corefold.adapters.layer import DeepLoraLayer
from corefold.core import FactorChain, start_product

PREFIX = "base_model.model."
PARTS = ("deeplora_factors", "deeplora_left", "deeplora_right", "deeplora_embedding")


@dataclass(frozen=True)
class LoraExport:
    """What `export_lora` wrote.

    Attributes:
        directory: where the LoRA adapter lies.
        rank: its rank, that of every layer.
        needed: how many directions each layer needs for the tolerance, by module name; `rank` is the largest.
        bytes: size of the LoRA weights.
        bytes_at_full_width: what they would take with no direction dropped.
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
    """Write a Deep LoRA adapter as a plain LoRA, which stock PEFT and LoRA servers load without corefold.

    Every layer gets the same rank, with `lora_alpha` equal to it: servers differ in how they scale unequal ranks
    (llama.cpp by a tensor's own, vLLM by the configuration's, SGLang refuses them), and PEFT does not hot-swap them.

    Args:
        model: a model with the adapter, wrapped by PEFT or with the adapter injected.
        directory: where to write; made if missing.
        adapter_name: which adapter; default the active one.
        tolerance: largest relative error (Frobenius) of each layer's update; the rank is what the layer in most need
            of directions needs for it. Default: all are kept.

    Raises:
        ValueError: no such adapter, it is not a Deep LoRA adapter, or it adapts a layer that PEFT's LoRA cannot
            (`lora_obstacle`); a tolerance outside [0, 1).
    """
    configs = getattr(model, "peft_config", {})
    if adapter_name is None:
        active: Any = getattr(model, "active_adapters", None) or getattr(model, "active_adapter", [])
        active = active() if callable(active) else active  # a method in transformers, a property in PEFT
        names = [active] if isinstance(active, str) else [*active]
        if len(names) != 1:
            raise ValueError(f"adapter_name= must say which adapter to export; active: {names or 'none'}")
        adapter_name = str(names[0])
    config = configs.get(adapter_name)
    if not isinstance(config, DeepLoraConfig):
        raise ValueError(
            f"{adapter_name!r} is not a Deep LoRA adapter of this model; it has {[*configs] or 'none'}"
        )
    for path, layer in model.named_modules():
        if isinstance(layer, DeepLoraLayer) and adapter_name in layer.r and layer.lora_obstacle:
            raise ValueError(
                f"{path} {layer.lora_obstacle}; merge the adapter, or leave the layer out with exclude_modules"
            )
    state = get_peft_model_state_dict(model, adapter_name=adapter_name)
    return to_lora(config, state, directory, tolerance)


def to_lora(
    config: DeepLoraConfig,
    state: Mapping[str, Tensor],
    directory: str | os.PathLike[str],
    tolerance: float | None = None,
) -> LoraExport:
    """`export_lora` of a saved adapter: its configuration and its state dict, as PEFT saves it."""
    chains = chains_of(config, state)
    needed = {name: chain.collapse(tol=tolerance)[1].shape[0] for name, chain in chains.items()}
    rank = max(needed.values())
    tensors = {
        f"{PREFIX}{name.removeprefix(PREFIX)}": tensor
        for name, tensor in state.items()
        if not name.endswith(PARTS)
    }
    size = width = 0
    for name, chain in chains.items():
        b, a = chain.collapse(rank=min(rank, chain.rank))
        missing = rank - b.shape[1]  # a layer narrower than the rank
        pair = _named(name, state, pad(b, (0, missing)), pad(a, (0, 0, 0, missing)))
        tensors |= {f"{PREFIX}{key}": tensor for key, tensor in pair.items()}
        size += sum(tensor.nbytes for tensor in pair.values())
        width = max(width, chain.rank)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lora = _lora_config(config, rank)
    lora.save_pretrained(str(directory))
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        directory / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    write_card(directory, lora)
    return LoraExport(directory, rank, needed, size, size // rank * width)


def _named(name: str, state: Mapping[str, Tensor], b: Tensor, a: Tensor) -> dict[str, Tensor]:
    """A layer's pair under the names, and in the shapes, that PEFT's LoRA has for its kind of layer."""
    right = state.get(f"{PREFIX}{name}.deeplora_right", state.get(f"{name}.deeplora_right"))
    if right is None:
        return {f"{name}.lora_embedding_A": a, f"{name}.lora_embedding_B": b}
    kernel = right.shape[1:-1]  # of a convolution
    return {
        f"{name}.lora_A.weight": a.reshape(-1, right.shape[0], *kernel),
        f"{name}.lora_B.weight": b.reshape(*b.shape, *[1] * len(kernel)),
    }


def chains_of(config: DeepLoraConfig, state: Mapping[str, Tensor]) -> dict[str, FactorChain]:
    """The chain of each layer of a saved adapter, by module name.

    Raises:
        ValueError: no layer, a missing tensor or shapes that do not fit together; the tensor is named.
    """
    names = sorted({key.rpartition(".")[0] for key in state if key.endswith(PARTS)})
    if not names:
        raise ValueError("the adapter holds no Deep LoRA layer")
    chains = {}
    for name in names:
        parts = [
            *PARTS[:2],
            "deeplora_embedding" if f"{name}.deeplora_embedding" in state else "deeplora_right",
        ]
        for part in parts:
            if f"{name}.{part}" not in state:
                raise ValueError(f"tensor {name}.{part} is missing from the adapter")
        factors, left, right = (state[f"{name}.{part}"] for part in parts)
        width, square = left.shape[-1], factors.shape[-2:] == (left.shape[-1], left.shape[-1])
        depth = config.depth if square else 2
        fits = factors.shape[:-1] == (depth, width) and factors.shape[-1] <= width
        if not fits or {left.shape[1:], right.shape[-1:]} != {(width,)}:
            raise ValueError(
                f"{name}: factors {tuple(factors.shape)}, left {tuple(left.shape)}, right {tuple(right.shape)} "
                f"do not make a chain of depth {config.depth}"
            )
        start = start_product(config.init_scale, config.depth, factors.dtype) if square else 0.0
        chains[name.removeprefix(PREFIX)] = FactorChain(left, factors, right.flatten(0, -2), start)
    return chains


def _lora_config(config: DeepLoraConfig, rank: int) -> LoraConfig:
    layers = config.layers_to_transform
    return LoraConfig(
        r=rank,
        lora_alpha=rank,  # scaling = alpha / r = 1
        fan_in_fan_out=config.fan_in_fan_out,
        target_modules=config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=[layers] if isinstance(layers, int) else layers,  # PEFT 0.20 takes 0 for unset
        layers_pattern=config.layers_pattern,
        modules_to_save=config.modules_to_save,
        trainable_token_indices=config.trainable_token_indices,
        bias="lora_only" if config.bias == "deeplora_only" else config.bias,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
    )
