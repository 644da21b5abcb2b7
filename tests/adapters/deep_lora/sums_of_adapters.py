"""Adapters that overlap on some layers, and the sums of their dense updates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from corefold import DeepLoraConfig
from models import layers, randomise, tiny_llama, wrap

ADAPTERS: dict[str, dict[str, Any]] = {
    "one": {"target_modules": ["q_proj", "k_proj", "up_proj"], "r": 4},
    "two": {
        "target_modules": ["q_proj", "k_proj", "o_proj"],
        "r": 7,
        "depth": 2,
        "init_scale": 0.3,
        "rank_pattern": {r".*\.0\..*q_proj": 9},
    },
    "three": {"target_modules": ["q_proj", "k_proj", "embed_tokens"], "r": 11, "width": None, "depth": 1},
}
"""They differ in rank, depth and start, and share only some layers."""
SUM = (["one", "two", "three"], [0.7, -1.3, 2.0])


def several(adapters: dict[str, dict[str, Any]] = ADAPTERS, base: nn.Module | None = None) -> Any:
    """A model with these adapters, all in general position, the first active."""
    base = tiny_llama().double() if base is None else base
    (first, options), *others = adapters.items()
    model = wrap(base, adapter_name=first, **options)
    for name, options in others:
        model.add_adapter(name, DeepLoraConfig(**options))
    randomise(model, size=0.3)
    return model.eval()


def update(layer: Any, name: str) -> Tensor:
    return layer.get_delta_weight(name).detach()


def summed(layer: Any, names: list[str], weights: list[float]) -> Tensor:
    here = [w * update(layer, name) for name, w in zip(names, weights, strict=True) if name in layer.r]
    return torch.stack(here).sum(0)


def combined(model: Any, name: str = "sum") -> dict[str, Any]:
    return {path: layer for path, layer in layers(model).items() if name in layer.r}
