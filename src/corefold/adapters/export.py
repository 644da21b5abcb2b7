"""Deep LoRA as plain LoRA: exact, factored, and without the directions that carry nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from corefold.adapters.card import write_card
from corefold.adapters.config import DeepLoraConfig
from corefold.core import FactorChain, start_product

PREFIX = "base_model.model."
PARTS = ("deeplora_factors", "deeplora_left", "deeplora_right")


@dataclass(frozen=True)
class LoraExport:
    """What `export_lora` wrote.

    Attributes:
        directory: where the LoRA adapter lies.
        ranks: LoRA rank of each layer, by module name.
        bytes: size of the LoRA weights.
        bytes_at_full_width: what they would take with no direction dropped.
    """

    directory: Path
    ranks: dict[str, int]
    bytes: int
    bytes_at_full_width: int

    @property
    def bytes_saved(self) -> int:
        """Bytes that the dropped directions would have taken."""
        return self.bytes_at_full_width - self.bytes

    def __str__(self) -> str:
        ranks = sorted(self.ranks.values())
        span = f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"
        return (
            f"LoRA of {len(ranks)} layers, {span}, {self.bytes:,} bytes "
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

    Args:
        model: a model with the adapter, wrapped by PEFT or with the adapter injected.
        directory: where to write; made if missing.
        adapter_name: which adapter; default the active one.
        tolerance: largest relative error (Frobenius) of each layer's update. Directions that are not needed for
            it are dropped, layer by layer, and the ranks written as `rank_pattern`. Default: all are kept.

    Raises:
        ValueError: no such adapter, or it is not a Deep LoRA adapter; a tolerance outside [0, 1).
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
    pairs = {name: chain.collapse(tol=tolerance) for name, chain in chains.items()}
    ranks = {name: a.shape[0] for name, (_, a) in pairs.items()}
    others = {name: tensor for name, tensor in state.items() if not name.endswith(PARTS)}
    tensors = {f"{PREFIX}{name.removeprefix(PREFIX)}": tensor for name, tensor in others.items()}
    for name, (b, a) in pairs.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lora = _lora_config(config, ranks)
    lora.save_pretrained(str(directory))
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        directory / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    write_card(directory, lora)
    sizes = {name: b[:, 0].nbytes + a[0].nbytes for name, (b, a) in pairs.items()}  # of one direction
    return LoraExport(
        directory,
        ranks,
        sum(sizes[name] * rank for name, rank in ranks.items()),
        sum(sizes[name] * chain.left.shape[1] for name, chain in chains.items()),
    )


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
        for part in PARTS:
            if f"{name}.{part}" not in state:
                raise ValueError(f"tensor {name}.{part} is missing from the adapter")
        factors, left, right = (state[f"{name}.{part}"] for part in PARTS)
        width = factors.shape[-1]
        if factors.shape != (config.depth, width, width) or {left.shape[1:], right.shape[1:]} != {(width,)}:
            raise ValueError(
                f"{name}: factors {tuple(factors.shape)}, left {tuple(left.shape)}, right {tuple(right.shape)} "
                f"do not make a chain of depth {config.depth}"
            )
        start = start_product(config.init_scale, config.depth, factors.dtype)
        chains[name.removeprefix(PREFIX)] = FactorChain(left, factors, right, start)
    return chains


def _lora_config(config: DeepLoraConfig, ranks: dict[str, int]) -> LoraConfig:
    r = max(ranks.values())  # servers size their buffers by it
    pattern = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != r}
    return LoraConfig(
        r=r,
        lora_alpha=r,  # scaling = alpha / r = 1, in every layer
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        target_modules=config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
        layers_pattern=config.layers_pattern,
        modules_to_save=config.modules_to_save,
        bias="lora_only" if config.bias == "deeplora_only" else config.bias,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
    )
