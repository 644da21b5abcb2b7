"""Parameter groups for Deep LoRA, for any optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn

from corefold.adapters.layer import DeepLoraLayer


def param_groups(
    model: nn.Module,
    lr: float,
    basis_lr_ratio: float | None = None,
    other_lr: float | None = None,
    weight_decay: float = 0.0,
    other_weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: cores, bases, and whatever else trains (a classifier head, biases).

    Recommended under a head, in up to 160 steps: `torch.optim.AdamW(param_groups(model, lr=0.05 / (r * epochs)**0.5,
    weight_decay=3, other_lr=1e-3), eps=1e-6)`, epochs being the passes over the rows, at least 1. Without a head, and
    in more steps, half that rate and no decay; in more steps over (steps / 160)**0.8 as well, and a quarter for the
    cosine of two embeddings. For square cores `lr=0.1 / r` without decay; their first gradients are of the order of
    init_scale**(depth - 1), so that AdamW's own eps matters.

    Args:
        model: a model with Deep LoRA adapters; only what requires a gradient is returned.
        lr: learning rate of the cores.
        basis_lr_ratio: learning rate of the bases over `lr` (gamma in the paper). 0 freezes them; default: what
            the adapter's configuration says. The configuration is updated.
        other_lr: learning rate of everything else; default `lr`.
        weight_decay: of the cores. Bases never decay: they are orthonormal.
        other_weight_decay: of everything else.

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
            config = layer.deeplora_config[name]
            if basis_lr_ratio is not None:
                config.decide(basis_lr_ratio=basis_lr_ratio)
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
        rate = lr if other_lr is None else other_lr
        groups.append({"name": "others", "params": others, "lr": rate, "weight_decay": other_weight_decay})
    return groups
