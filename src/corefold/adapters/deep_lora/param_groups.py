"""Parameter groups for Deep LoRA, for any optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn

from corefold.adapters.deep_lora.layer import DeepLoraLayer
from corefold.adapters.deep_lora.recipe import HEAD_LR


def param_groups(
    model: nn.Module,
    lr: float,
    basis_lr_ratio: float | None = None,
    other_lr: float = HEAD_LR,
    weight_decay: float = 0.0,
    other_weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: cores, bases, and everything else that trains (a classifier head, biases).

    `corefold.recipe` returns rates that suit your rows and steps, and the eps for AdamW:
    `AdamW(param_groups(model, **recipe.rates), eps=recipe.eps)`.

    Args:
        model: a model with Deep LoRA adapters; parameters that require no gradient are left out.
        lr: learning rate of the cores.
        basis_lr_ratio: learning rate of the bases over `lr` (gamma in the paper). 0 freezes them; by default the
            adapter's configuration decides. The adapter keeps the ratio and saves it.
        other_lr: learning rate of everything else, by default the recipe's for a head. A head at the rate of the
            cores would fit the rows before they move.
        weight_decay: weight decay of the cores. Bases never decay: they are orthonormal.
        other_weight_decay: weight decay of everything else.

    Raises:
        ValueError: the model has no Deep LoRA adapter that trains, or a negative ratio.
    """
    if basis_lr_ratio is not None and basis_lr_ratio < 0:
        raise ValueError(f"basis_lr_ratio must be 0 (frozen bases) or positive; got {basis_lr_ratio}")
    cores: list[nn.Parameter] = []
    bases: dict[float, list[nn.Parameter]] = {}
    for layer in model.modules():
        if not isinstance(layer, DeepLoraLayer):
            continue
        for name, factors in layer.deeplora_factors.items():
            if not factors.requires_grad:
                continue
            cores.append(factors)
            config = layer.configs[name]
            if basis_lr_ratio is not None:
                config.basis_lr_ratio = basis_lr_ratio
            layer.train_bases(name, config.basis_lr_ratio > 0)
            if config.basis_lr_ratio > 0:
                bases.setdefault(config.basis_lr_ratio, []).extend(layer.tensors(name)[1:])  # type: ignore[arg-type]
    if not cores:
        raise ValueError("the model has no trainable Deep LoRA adapter; wrap it with a DeepLoraConfig first")
    groups = [{"name": "cores", "params": cores, "lr": lr, "weight_decay": weight_decay}]
    for ratio, params in bases.items():
        groups.append({"name": f"bases x {ratio:g}", "params": params, "lr": lr * ratio, "weight_decay": 0.0})
    seen = {id(p) for group in groups for p in group["params"]}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in seen]
    if others:
        groups.append(
            {"name": "others", "params": others, "lr": other_lr, "weight_decay": other_weight_decay}
        )
    return groups
