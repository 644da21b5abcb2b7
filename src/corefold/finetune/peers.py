"""The methods that Deep LoRA is compared with.

PEFT sets them up as it does by default, with LoRA's scale (alpha = 2 x rank) unless their authors use another. Their
rates are those of the papers, rounded; a fair comparison tunes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from peft import AdaLoraConfig, EvaConfig, LoraConfig, LoraGAConfig, PeftConfig, VeraConfig
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel, TrainerCallback
from transformers.pytorch_utils import Conv1D

from corefold.adapters.deep_lora.recipe import HEAD_LR
from corefold.errors import InputError
from corefold.finetune.config import RunConfig
from corefold.finetune.method import Decided, Decision, Method, Parameters, value_or
from corefold.finetune.peer_initialization import (
    LORA_ONE_RIDGE,
    add_orthogonality_penalty,
    initialize_eva,
    initialize_lora_ga,
    initialize_lora_one,
)
from corefold.finetune.task import Task
from corefold.finetune.tasks.kinds import comes_whole

RANK = 2
NEW_HEAD_LR = 1e-2  # A new head that trains alone; a head from the checkpoint trains at HEAD_LR.
ADALORA_INITIAL_RANK_FACTOR = 1.5  # over the rank that it ends with, as in PEFT's defaults


def _decide_with(lr: float) -> Callable[[RunConfig, Task, int, int], Decision[None]]:
    """A method whose usual learning rate is the same for every task and number of rows."""

    def decide(config: RunConfig, task: Task, rows: int, steps: int) -> Decision[None]:
        return Decision(
            value_or(config.rank, RANK), value_or(config.lr, lr), value_or(config.weight_decay, 0.0), None
        )

    return decide


def _decide_head(config: RunConfig, task: Task, rows: int, steps: int) -> Decision[None]:
    if task.head in ("cosine", "lm"):
        raise InputError(f"head trains a head alone, and this task ({task.kind}, {task.head}) has none")
    lr = value_or(config.head_lr, HEAD_LR if task.head == "own" else NEW_HEAD_LR)
    return _decide_with(lr)(config, task, rows, steps)


def _decide_embeddings(config: RunConfig, task: Task, rows: int, steps: int) -> Decision[None]:
    if task.head != "mean":
        other = "; add --head mean" if task.head == "own" else ""
        raise InputError(
            f"embeddings fits a new head on pooled tokens, and this task ({task.kind}, {task.head}) has none{other}"
        )
    if config.keep == "best" or config.patience is not None:
        raise InputError(
            "--keep best and --patience choose a step, and embeddings takes none; leave them out"
        )
    return _decide_with(0.0)(config, task, rows, steps)


def _decide_untouched(config: RunConfig, task: Task, rows: int, steps: int) -> Decision[None]:
    if not comes_whole(task):
        raise InputError(
            f"untouched evaluates the model without training, and this task ({task.kind}) puts a new head on it"
        )
    return _decide_with(0.0)(config, task, rows, steps)


def preconditioned_adamw(settings: Decided[None], model: nn.Module, head: Parameters) -> Optimizer:
    """Like `two_rates`, with the gradients of LoRA pairs preconditioned by PEFT.

    Raises:
        InputError: the installed PEFT cannot do that yet.
    """
    try:
        from peft.optimizers import create_riemannian_optimizer
    except ImportError as error:
        raise InputError(
            "lora-one preconditions gradients by PEFT 0.21 or newer: pip install --upgrade peft"
        ) from error
    model_or_wrapper: Any = model
    options = {"lr": settings.lr, "reg": LORA_ONE_RIDGE, "weight_decay": settings.weight_decay}
    optimizer = create_riemannian_optimizer(model_or_wrapper, AdamW, **options)
    of_head = {id(parameter) for parameter in head}
    (body,) = optimizer.param_groups
    body["params"] = [parameter for parameter in body["params"] if id(parameter) not in of_head]
    if head:
        optimizer.add_param_group({"params": head, "lr": settings.head_lr, "weight_decay": 0.0})
    return optimizer


def _lora(
    alpha_over_rank: int = 2, **options: Any
) -> Callable[[Decided[None], dict[str, Any], PreTrainedModel], PeftConfig]:
    def make(settings: Decided[None], shared: dict[str, Any], base: PreTrainedModel) -> PeftConfig:
        return LoraConfig(lora_alpha=alpha_over_rank * shared["r"], **options, **shared)

    return make


def _lora_one(settings: Decided[None], shared: dict[str, Any], base: PreTrainedModel) -> PeftConfig:
    return LoraConfig(lora_alpha=16, use_rslora=True, **shared)


def _adalora(settings: Decided[None], shared: dict[str, Any], base: PreTrainedModel) -> PeftConfig:
    steps, rank = settings.steps, shared["r"]
    most = math.ceil(ADALORA_INITIAL_RANK_FACTOR * rank)
    return AdaLoraConfig(
        init_r=most,
        target_r=rank,
        lora_alpha=2 * most,
        tinit=steps // 10,
        tfinal=3 * steps // 10,
        total_step=steps,
        **{name: value for name, value in shared.items() if name != "r"},
    )


def _vera(settings: Decided[None], shared: dict[str, Any], base: PreTrainedModel) -> PeftConfig:
    options = dict(shared)
    apart = options.pop("exclude_modules")  # VeRA has no such option, so list the layers instead
    if options["target_modules"] == "all-linear":
        output = base.get_output_embeddings()
        options["target_modules"] = [
            name
            for name, module in base.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and module is not output
            if not (apart and re.fullmatch(apart, name))
        ]
    return VeraConfig(projection_prng_key=settings.seed, **options)


class _Allocate(TrainerCallback):
    """Allocates AdaLoRA's ranks after each step, while the gradients are still there."""

    def __init__(self, adapted: Any) -> None:
        self.adapted = adapted

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by Trainer."""
        self.adapted.base_model.update_and_allocate(state.global_step)


LORA = Method(_decide_with(3e-4), _lora(), low_rank=True)
DORA = Method(_decide_with(3e-4), _lora(use_dora=True))
PISSA = Method(  # its authors set alpha to the rank
    _decide_with(3e-4), _lora(1, init_lora_weights="pissa"), changes_base=True, low_rank=True
)
EVA = Method(
    _decide_with(3e-4),
    _lora(init_lora_weights="eva", eva_config=EvaConfig()),
    initialize=initialize_eva,
    low_rank=True,
)
LORA_GA = Method(
    _decide_with(3e-4),
    _lora(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig()),
    initialize=initialize_lora_ga,
    changes_base=True,
    low_rank=True,
)
LORA_ONE = Method(
    _decide_with(2e-4),
    _lora_one,
    initialize=initialize_lora_one,
    optimizer=preconditioned_adamw,
    low_rank=True,
)
ADALORA = Method(
    _decide_with(2e-3),
    _adalora,
    initialize=add_orthogonality_penalty,
    callbacks=lambda settings, model: (_Allocate(model),),
    resumes=False,
)
VERA = Method(_decide_with(1e-2), _vera)
FULL = Method(_decide_with(3e-5), has_rank=False, trains_body=True, keeps="model")
HEAD = Method(_decide_head, has_rank=False, keeps="head")
UNTOUCHED = Method(_decide_untouched, has_rank=False, trains=False)
EMBEDDINGS = Method(_decide_embeddings, has_rank=False, trains=False, fits_head=True, keeps="head")
