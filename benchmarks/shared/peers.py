"""The methods that are set side by side: each makes of one frozen model something that takes training steps.

All share the base's tensors, so that many fit in memory at once; full fine-tuning, which changes them, has copies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import peft
import torch
from peft.optimizers import create_lorafa_optimizer
from peft.tuners.lora.config import VeloraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

import corefold

LR = 1e-4  # a step costs the same at any rate; this one keeps random labels from blowing anything up
STEPS = 1000  # AdaLoRA's schedule wants to know; no run here is as long


@dataclass(frozen=True)
class Case:
    """A pretrained model as all methods get it, and how a batch becomes its loss."""

    base: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    targets: str | list[str] = "all-linear"
    head: str | None = None  # trained in full by every method
    task_type: str | None = None
    rank: int = 8
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        self.base.requires_grad_(False).train()

    def twin(self, own: str | None = None) -> nn.Module:
        """A copy that shares the base's tensors, but those of the module named `own`; with "" it shares none."""
        tensors = [*self.base.named_parameters(), *self.base.named_buffers()]
        shared = {id(t): t for name, t in tensors if own is None or not name.startswith(own)}
        return copy.deepcopy(self.base, shared)

    def adapted(self) -> list[str]:
        """The layers that LoRA adapts here, and so all others."""
        wrapped = self.lora(self.twin())
        layers = [name for name, module in wrapped.named_modules() if isinstance(module, BaseTunerLayer)]
        return [name.removeprefix("base_model.model.") for name in layers]

    def lora(self, model: nn.Module, config: Callable[..., Any] = peft.LoraConfig, **options: Any) -> Any:
        settings = {"target_modules": self.targets, "task_type": self.task_type, **options}
        return peft.get_peft_model(model, config(**({"r": self.rank} | settings)))  # type: ignore[arg-type]


@dataclass
class Training:
    """A model in training; `step` is one step of the usual loop."""

    case: Case
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    after: Callable[[int], object] | None = None
    done: int = 0

    def forward(self, batch: Any) -> Tensor:
        device = next(self.model.parameters()).device.type
        with nullcontext() if self.case.autocast is None else torch.autocast(device, self.case.autocast):
            return self.case.loss(self.model, batch)

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
        if self.after is not None:
            self.after(self.done)
        self.done += 1

    def step(self, batch: Any) -> None:
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        self.backward(self.forward(batch))

    def trained(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def frozen(case: Case, model: nn.Module) -> Training:
    """The floor: forward, backward to the first layer that would be adapted, and a step of the head."""

    def reach(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()  # from here on the backward pass has to come as far as for an adapter
        return output

    for name in case.adapted():
        model.get_submodule(name).register_forward_hook(reach)
    if case.head is not None:
        model.get_submodule(case.head).requires_grad_(True)
    return Training(case, model, adamw(model))


def full(case: Case, model: nn.Module) -> Training:
    model.requires_grad_(True)
    return Training(case, model, adamw(model))


def lora(case: Case, model: nn.Module, **options: Any) -> Training:
    model = case.lora(model, **options)
    return Training(case, model, adamw(model))


def lora_fa(case: Case, model: nn.Module) -> Training:
    model = case.lora(model)
    return Training(case, model, create_lorafa_optimizer(model, r=case.rank, lora_alpha=8, lr=LR))


def adalora(case: Case, model: nn.Module) -> Training:
    # It cannot start at its target. By default it starts half as high again; r means nothing, and warns unless 8.
    ranks = {"r": 8, "init_r": case.rank * 3 // 2, "target_r": case.rank}
    model = case.lora(model, peft.AdaLoraConfig, **ranks, total_step=STEPS)
    return Training(case, model, adamw(model), model.base_model.update_and_allocate)


SQUARE = {"width": None, "depth": 3}  # the paper's core, of the rank that all peers have
NARROW = {"width": 112, "depth": 2, "r": 2}


def deep(case: Case, model: nn.Module, ratio: float, **settings: Any) -> Training:
    # Random bases cost a step as much as those from a gradient, which are a matter of quality.
    settings = {**SQUARE, **settings, "bases": "random", "basis_lr_ratio": ratio}
    model = case.lora(model, corefold.DeepLoraConfig, **settings)
    return Training(case, model, adamw(model, corefold.param_groups(model, lr=LR)))


def adamw(model: nn.Module, params: Sequence[Any] | None = None) -> torch.optim.Optimizer | None:
    params = [p for p in model.parameters() if p.requires_grad] if params is None else params
    return torch.optim.AdamW(params, lr=LR, fused=True) if params else None


@dataclass(frozen=True)
class Method:
    """`start` gets a twin of the base, with copies of the tensors below `own` (None: of none)."""

    label: str
    start: Callable[[Case, nn.Module], Training]
    note: str = ""
    own: str | None = None


XS = partial(peft.PsoftConfig, psoft_orth=False, psoft_mag_a=False, psoft_mag_b=False, psoft_svd="lowrank")
MAIN = ("floor", "lora", "deep_frozen", "deep_trained")  # what the targets speak of
METHODS = {
    "floor": Method("frozen model", frozen, "forward, backward to the first adapted layer; the head trains"),
    "lora": Method("LoRA", lora),
    "deep_frozen": Method(
        "square core", partial(deep, ratio=0.0), "the paper's, of the rank of the peers, frozen bases"
    ),
    "deep_narrow": Method("Deep LoRA", partial(deep, ratio=0.0, **NARROW), "the default: rank 2, width 112"),
    "deep_trained": Method("square core, bases trained", partial(deep, ratio=1e-2), "basis_lr_ratio=1e-2"),
    "rslora": Method("rsLoRA", partial(lora, use_rslora=True)),
    "dora": Method("DoRA", partial(lora, use_dora=True)),
    "adalora": Method(
        "AdaLoRA",
        adalora,
        "rank 1.5 r at first, on average r at last, as by default; update_and_allocate is part of the step",
    ),
    "vera": Method(
        "VeRA",
        partial(lora, config=peft.VeraConfig, save_projection=True),
        "one A and one B for all layers, cut to each layer's shape, as PEFT does for unequal shapes",
    ),
    "lora_fa": Method(
        "LoRA-FA", lora_fa, "LoRA with peft.optimizers.create_lorafa_optimizer in place of AdamW"
    ),
    "lora_xs": Method(
        "LoRA-XS",
        partial(lora, config=XS),
        "PEFT's PSOFT with a free r x r matrix between frozen singular vectors (psoft_orth=False, no magnitudes)",
    ),
    "velora": Method(
        "VeLoRA", partial(lora, velora_config=VeloraConfig()), "keeps compressed inputs for LoRA's A"
    ),
    "full": Method("full fine-tuning", full, "every weight trains", own=""),
}


def prepare(name: str, case: Case) -> nn.Module:
    """The tensors that a method starts from."""
    own = case.head if name == "floor" else METHODS[name].own
    return case.twin(own)
