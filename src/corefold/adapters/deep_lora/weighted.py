"""New adapters made of trained ones."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from peft.utils import ModulesToSaveWrapper
from peft.utils.merge_utils import dare_linear, dare_ties, magnitude_prune, ties
from torch import Tensor

from corefold.adapters.deep_lora.layer import DeepLoraLayer
from corefold.adapters.host.tuner import AdapterTuner
from corefold.core import DeepCore, low_rank_svd

Combination = Literal[
    "cat",
    "svd",
    "linear",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]
Svd = tuple[Tensor, Tensor, Tensor]


def add_weighted(
    model: AdapterTuner,
    adapters: list[str],
    weights: list[float],
    adapter_name: str,
    combination_type: Combination = "cat",
    svd_rank: int | None = None,
    density: float | None = None,
    majority_sign_method: Literal["total", "frequency"] = "total",
) -> None:
    """Add the adapter `sum(weight * adapter)`, with square cores; it starts frozen and inactive, as PEFT's own does.

    Args:
        model: the tuner that has the adapters.
        adapters: names of adapters.
        weights: one number each, of either sign.
        adapter_name: the new name.
        combination_type: `"cat"`, the sum itself, exact: a larger core where the adapters' directions need it;
            `"svd"` and `"linear"`, the sum cut to its `svd_rank` best directions (default: as many as the largest
            adapter has); the others prune the dense updates as PEFT does for LoRA before they are summed and cut.
        svd_rank: rank of the new adapter.
        density: share of the entries that the pruning combinations keep, 0 to 1.
        majority_sign_method: how `ties` elects a sign.

    Raises:
        ValueError: an unknown adapter or combination, a name that is taken, numbers that do not match, adapters of
            unequal rank where PEFT wants equal ones, or several adapters with a saved module in the same place, or
            trained biases.
    """
    _check(model, adapters, weights, adapter_name, combination_type)
    if svd_rank is not None and svd_rank < 1:
        raise ValueError(f"svd_rank is a rank, at least 1; got {svd_rank}")
    combined = _combined(model, adapters, weights, combination_type, svd_rank, density, majority_sign_method)
    config = _configuration(model, adapters, combined)
    model.peft_config[adapter_name] = config
    model.inject_adapter(model.model, adapter_name)
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            heads = module.modules_to_save
            for owner in {*adapters} & {*heads}:  # There is at most one.
                module.update(adapter_name)
                heads[adapter_name].load_state_dict(heads[owner].state_dict())
    for path, layer in model.adapted_layers().items():
        if path in combined:
            u, s, v = (part.to(layer.deeplora_left[adapter_name]) for part in combined[path])
            layer.set_update(adapter_name, DeepCore.from_svd(u, s, v, config.depth, config.init_scale))


def _combined(
    model: AdapterTuner,
    adapters: list[str],
    weights: list[float],
    combination: str,
    svd_rank: int | None,
    density: float | None,
    majority: Literal["total", "frequency"],
) -> dict[str, Svd]:
    """The new update of each layer that one of the adapters adapts."""
    rank = svd_rank or max(_rank(model, name) for name in adapters)
    merge = _pruning(combination, density, majority)
    combined = {}
    for path, layer in model.adapted_layers().items():
        here = [(name, weight) for name, weight in zip(adapters, weights, strict=True) if name in layer.r]
        if here:
            u, s, v = _sum(layer, here) if merge is None else _pruned(layer, here, merge)
            kept = len(s) if combination == "cat" else min(len(s), rank)
            combined[path] = (u[:, :kept], s[:kept], v[:, :kept])
    return combined


def _configuration(model: AdapterTuner, adapters: list[str], combined: dict[str, Svd]) -> Any:
    configs: dict[str, Any] = model.peft_config
    # An attention's output projection lies inside an adapted layer and comes with it.
    paths = [path for path in combined if ".base_layer." not in path]
    # PEFT takes a name for the end of a path: `fc` would be `block.fc` as well.
    others = {name for name, _ in model.model.named_modules() if name.endswith(tuple(f".{p}" for p in paths))}
    return replace(
        configs[adapters[0]],
        r=max(len(s) for _, s, _ in combined.values()),
        width=None,
        rank_pattern={f"^{re.escape(path)}": len(combined[path][1]) for path in paths},
        target_modules=paths,
        exclude_modules="|".join(re.escape(name) for name in sorted(others.difference(paths))) or None,
        layers_to_transform=None,
        layers_pattern=None,
        modules_to_save=next(filter(None, (configs[name].modules_to_save for name in adapters)), None),
        trainable_token_indices=None,
        inference_mode=True,
        initialized=True,
    )


def _check(
    model: AdapterTuner, adapters: list[str], weights: list[float], adapter_name: str, combination: str
) -> None:
    if unknown := [name for name in adapters if name not in model.peft_config]:
        raise ValueError(f"Adapter {unknown[0]} does not exist; the model has {', '.join(model.peft_config)}")
    if adapter_name in model.peft_config:
        raise ValueError(f"the model has an adapter {adapter_name!r} already")
    for name in adapters:
        config: Any = model.peft_config[name]
        if config.bias != "none":
            raise ValueError(f"adapter {name!r} trains biases, which cannot be added up")
        if config.trainable_token_indices:
            warnings.warn(
                f"the token rows that adapter {name!r} trains are left out of the sum", stacklevel=4
            )
    if not adapters or len(adapters) != len(weights):
        raise ValueError(f"{len(adapters)} adapters need as many weights; got {len(weights)}")
    if combination not in get_args(Combination):
        raise ValueError(
            f"Invalid combination_type: {combination}; one of {', '.join(get_args(Combination))}"
        )
    ranks = {_rank(model, name) for name in adapters}
    if combination in ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune") and len(ranks) > 1:
        raise ValueError(
            f"All adapters must have the same r value when using combination_type {combination}; got {sorted(ranks)}. "
            "'cat' and the svd combinations take any."
        )
    for path, module in model.model.named_modules():
        if (
            isinstance(module, ModulesToSaveWrapper)
            and sum(name in module.modules_to_save for name in adapters) > 1
        ):
            raise ValueError(
                f"Cannot add weighted adapters if they target the same module with modules_to_save: {path}"
            )


def _rank(model: AdapterTuner, adapter_name: str) -> int:
    config: Any = model.peft_config[adapter_name]
    return max([config.r, *config.rank_pattern.values()])


def _sum(layer: DeepLoraLayer, adapters: list[tuple[str, float]]) -> Svd:
    updates = [(layer.update(name), weight * layer.scaling[name]) for name, weight in adapters]
    thin = [(weight, *update.thin(torch.float64)) for update, weight in updates]
    tall = torch.cat([weight * tall for weight, tall, _ in thin], 1)
    return low_rank_svd(tall.detach(), torch.cat([right for _, _, right in thin], 1).detach())


def _pruned(
    layer: DeepLoraLayer, adapters: list[tuple[str, float]], merge: Callable[[list[Tensor], Tensor], Tensor]
) -> Svd:
    updates = [(layer.update(name).dense() * layer.scaling[name]).detach() for name, _ in adapters]
    dense = merge(updates, torch.tensor([weight for _, weight in adapters]).to(updates[0]))
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    return u, s, vh.mT


def _pruning(
    combination: str, density: float | None, majority: Literal["total", "frequency"]
) -> Callable[[list[Tensor], Tensor], Tensor] | None:
    kind = combination.removesuffix("_svd")
    merges = {
        "ties": partial(ties, majority_sign_method=majority),
        "dare_linear": dare_linear,
        "dare_ties": partial(dare_ties, majority_sign_method=majority),
        "magnitude_prune": magnitude_prune,
    }
    if kind not in merges:
        return None
    if density is None or not 0 <= density <= 1:
        raise ValueError(f"combination_type {combination} needs a density between 0 and 1; got {density}")
    return partial(merges[kind], density=density)
