"""Deep LoRA as a method of training: its settings come from `corefold.recipe` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel, TrainerCallback

from corefold.adapters import BasesCallback, DeepLoraConfig, param_groups
from corefold.adapters.deep_lora.recipe import ADAM_EPS, Head, recipe
from corefold.core import Bases
from corefold.errors import InputError
from corefold.finetune.config import RunConfig
from corefold.finetune.method import Decided, Decision, Method, Parameters
from corefold.finetune.task import Task

RECIPE_HEADS: dict[str, Head] = {
    "own": "classifier",
    "mean": "classifier",
    "cosine": "cosine",
    "lm": "language-model",
}


@dataclass(frozen=True)
class DeepLoraSettings:
    """The settings that Deep LoRA alone has, once they are decided.

    Attributes:
        width, depth, bases, basis_lr_ratio, init_scale: as in `DeepLoraConfig`, but that a width of 0 makes a square
            core.
        num_batches: batches from which the bases are read.
    """

    width: int
    depth: int
    bases: Bases
    basis_lr_ratio: float
    init_scale: float
    num_batches: int


def _decide(config: RunConfig, task: Task, rows: int, steps: int) -> Decision[DeepLoraSettings]:
    try:
        found = recipe(
            rows=rows,
            batch_size=config.batch_size * config.grad_accum,
            head="pairs" if config.objective == "pairs" else RECIPE_HEADS[task.head],
            steps=steps,
            r=config.rank,
            width=config.width,
            depth=config.depth,
            lr=config.lr,
            weight_decay=config.weight_decay,
        )
    except ValueError as error:
        raise InputError(f"--rank {config.rank}, --width {config.width}: {error}") from error
    own = DeepLoraSettings(
        width=found.width or 0,
        depth=found.depth,
        bases=config.bases,
        basis_lr_ratio=config.basis_lr_ratio,
        init_scale=config.init_scale,
        num_batches=found.num_batches,
    )
    return Decision(found.r, found.lr, found.weight_decay, own)


def _peft(settings: Decided[DeepLoraSettings], shared: dict[str, Any], base: PreTrainedModel) -> PeftConfig:
    own = settings.own
    return DeepLoraConfig(
        width=own.width or None,
        depth=own.depth,
        bases=own.bases,
        basis_lr_ratio=own.basis_lr_ratio,
        init_scale=own.init_scale,
        **shared,
    )


def _callbacks(settings: Decided[DeepLoraSettings], model: Any) -> Sequence[TrainerCallback]:
    if settings.own.bases == "random":
        return ()
    generator = torch.Generator().manual_seed(settings.seed)
    return (BasesCallback(settings.own.num_batches, generator=generator),)


def _optimizer(settings: Decided[DeepLoraSettings], model: nn.Module, head: Parameters) -> Optimizer:
    groups = param_groups(model, settings.lr, other_lr=settings.head_lr, weight_decay=settings.weight_decay)
    return AdamW(groups, eps=ADAM_EPS)


DEEP_LORA = Method(_decide, _peft, callbacks=_callbacks, optimizer=_optimizer, low_rank=True)
