"""The methods that are compared: each turns one frozen model into a model that takes training steps.

All share the base model's tensors, so that many fit in memory at once. Full fine-tuning changes them, so it has copies.
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

LR = 1e-4  # a step costs the same at any rate; at this one, training on random labels does not diverge
ADALORA_STEPS = 1000  # the length of AdaLoRA's schedule, which no run here reaches


@dataclass(frozen=True)
class BaseModel:
    """A pretrained model as all methods get it.

    Attributes:
        module: the model, frozen.
        loss: of a model on a batch.
        targets: the layers to adapt, as PEFT takes them.
        head: the name of the module that every method trains in full; None where there is none.
        task_type: as PEFT takes it.
        rank: of all adapters.
        autocast: the dtype of the products; None for that of the weights.
    """

    module: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    targets: str | list[str] = "all-linear"
    head: str | None = None
    task_type: str | None = None
    rank: int = 8
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        self.module.requires_grad_(False).train()

    def twin(self, own: str | None = None) -> nn.Module:
        """A copy that shares all tensors except those below the module `own`: None shares all, "" shares none."""
        tensors = [*self.module.named_parameters(), *self.module.named_buffers()]
        shared = {id(t): t for name, t in tensors if own is None or not name.startswith(own)}
        return copy.deepcopy(self.module, shared)

    def adapted(self) -> list[str]:
        """Names of the layers that LoRA, and so every other method, adapts here."""
        wrapped = self.lora(self.twin())
        layers = [name for name, module in wrapped.named_modules() if isinstance(module, BaseTunerLayer)]
        return [name.removeprefix("base_model.model.") for name in layers]

    def lora(self, model: nn.Module, config: Callable[..., Any] = peft.LoraConfig, **options: Any) -> Any:
        settings = {"target_modules": self.targets, "task_type": self.task_type, **options}
        return peft.get_peft_model(model, config(**({"r": self.rank} | settings)))  # type: ignore[arg-type]


@dataclass
class TrainedModel:
    """A model that trains; `step` is one step of the usual loop.

    Attributes:
        base: the model from which it was made.
        model: the module that trains.
        optimizer: None where nothing trains.
        after_step: called with the number of each finished step, from 0.
        steps_done: how many steps there were.
    """

    base: BaseModel
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    after_step: Callable[[int], object] | None = None
    steps_done: int = 0

    def forward(self, batch: Any) -> Tensor:
        device = next(self.model.parameters()).device.type
        with nullcontext() if self.base.autocast is None else torch.autocast(device, self.base.autocast):
            return self.base.loss(self.model, batch)

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
        if self.after_step is not None:
            self.after_step(self.steps_done)
        self.steps_done += 1

    def step(self, batch: Any) -> None:
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        self.backward(self.forward(batch))

    def trained_numbers(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def frozen(base: BaseModel, model: nn.Module) -> TrainedModel:
    """The floor: forward, backward to the first layer that would be adapted, and a step of the head."""

    def reach(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()  # so the backward pass comes as far as it does for an adapter
        return output

    for name in base.adapted():
        model.get_submodule(name).register_forward_hook(reach)
    if base.head is not None:
        model.get_submodule(base.head).requires_grad_(True)
    return TrainedModel(base, model, adamw(model))


def full(base: BaseModel, model: nn.Module) -> TrainedModel:
    model.requires_grad_(True)
    return TrainedModel(base, model, adamw(model))


def lora(base: BaseModel, model: nn.Module, **options: Any) -> TrainedModel:
    model = base.lora(model, **options)
    return TrainedModel(base, model, adamw(model))


def lora_fa(base: BaseModel, model: nn.Module) -> TrainedModel:
    model = base.lora(model)
    return TrainedModel(base, model, create_lorafa_optimizer(model, r=base.rank, lora_alpha=8, lr=LR))


def adalora(base: BaseModel, model: nn.Module) -> TrainedModel:
    # AdaLoRA starts above its target rank, by default at 1.5 times it. It ignores r, and warns unless r is 8.
    ranks = {"r": 8, "init_r": base.rank * 3 // 2, "target_r": base.rank}
    model = base.lora(model, peft.AdaLoraConfig, **ranks, total_step=ADALORA_STEPS)
    return TrainedModel(base, model, adamw(model), model.base_model.update_and_allocate)


SQUARE = {"width": None, "depth": 3}  # the paper's core, of the same rank as every other method's adapter
NARROW = {"width": 112, "depth": 2, "r": 2}


def deep(base: BaseModel, model: nn.Module, ratio: float, **settings: Any) -> TrainedModel:
    # A step costs the same with random bases as with bases from a gradient.
    settings = {**SQUARE, **settings, "bases": "random", "basis_lr_ratio": ratio}
    model = base.lora(model, corefold.DeepLoraConfig, **settings)
    return TrainedModel(base, model, adamw(model, corefold.param_groups(model, lr=LR)))


def adamw(model: nn.Module, params: Sequence[Any] | None = None) -> torch.optim.Optimizer | None:
    params = [p for p in model.parameters() if p.requires_grad] if params is None else params
    return torch.optim.AdamW(params, lr=LR, fused=True) if params else None


@dataclass(frozen=True)
class PeerMethod:
    """A method that is compared.

    Attributes:
        label: its name in tables and pictures.
        start: makes a trained model of the base and a twin of it.
        note: what the label does not say.
        own: the name of the module whose tensors the twin has copies of; "" for all, None for none.
    """

    label: str
    start: Callable[[BaseModel, nn.Module], TrainedModel]
    note: str = ""
    own: str | None = None


XS = partial(peft.PsoftConfig, psoft_orth=False, psoft_mag_a=False, psoft_mag_b=False, psoft_svd="lowrank")
MAIN = ("floor", "lora", "deep_frozen", "deep_trained")  # the methods that targets are about
METHODS = {
    "floor": PeerMethod(
        "frozen model", frozen, "forward, backward to the first adapted layer; the head trains"
    ),
    "lora": PeerMethod("LoRA", lora),
    "deep_frozen": PeerMethod(
        "square core", partial(deep, ratio=0.0), "the paper's, of the rank of the peers, frozen bases"
    ),
    "deep_narrow": PeerMethod(
        "Deep LoRA", partial(deep, ratio=0.0, **NARROW), "the default: rank 2, width 112"
    ),
    "deep_trained": PeerMethod(
        "square core, bases trained", partial(deep, ratio=1e-2), "basis_lr_ratio=1e-2"
    ),
    "rslora": PeerMethod("rsLoRA", partial(lora, use_rslora=True)),
    "dora": PeerMethod("DoRA", partial(lora, use_dora=True)),
    "adalora": PeerMethod(
        "AdaLoRA",
        adalora,
        "rank 1.5 r at first, on average r at last, as by default; update_and_allocate is part of the step",
    ),
    "vera": PeerMethod(
        "VeRA",
        partial(lora, config=peft.VeraConfig, save_projection=True),
        "one A and one B for all layers, cut to each layer's shape, as PEFT does for unequal shapes",
    ),
    "lora_fa": PeerMethod(
        "LoRA-FA", lora_fa, "LoRA with peft.optimizers.create_lorafa_optimizer in place of AdamW"
    ),
    "lora_xs": PeerMethod(
        "LoRA-XS",
        partial(lora, config=XS),
        "PEFT's PSOFT with a free r x r matrix between frozen singular vectors (psoft_orth=False, no magnitudes)",
    ),
    "velora": PeerMethod(
        "VeLoRA", partial(lora, velora_config=VeloraConfig()), "keeps compressed inputs for LoRA's A"
    ),
    "full": PeerMethod("full fine-tuning", full, "every weight trains", own=""),
}


def initial_model(name: str, base: BaseModel) -> nn.Module:
    """The twin of the base model from which a method starts."""
    own = base.head if name == "floor" else METHODS[name].own
    return base.twin(own)
