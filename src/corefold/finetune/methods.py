"""The methods that a model can be trained by: what PEFT makes of each, and what trains at which rate.

Peers stand as PEFT sets them up, with LoRA's scale (alpha = 2 x rank) unless their authors' is another. Their rates are
those of the papers, rounded; a fair comparison tunes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import AdaLoraConfig, EvaConfig, LoraConfig, LoraGAConfig, PeftConfig, VeraConfig
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel, TrainerCallback
from transformers.pytorch_utils import Conv1D

from corefold.adapters import BasesCallback, DeepLoraConfig, param_groups
from corefold.errors import InputError
from corefold.finetune import starts
from corefold.finetune.config import RunConfig
from corefold.finetune.task import Task, comes_whole

BASES_BATCHES = 4  # at least: of more steps a fortieth
BASES_SHARE = 40
ADALORA_START = (
    1.5  # ranks that AdaLoRA begins with, over those that it ends with, as PEFT's defaults have it
)

Parameters = list[nn.Parameter]


FEW_ROWS = 64  # below which the rate of square cores falls with them: reproduce/defaults
NARROW_RATE = 0.025  # of one direction and one pass over the rows: reproduce/defaults
DECAY = 3.0  # of narrow cores under a head, which lets them go twice as fast: reproduce/defaults
RANK, WIDTH = 2, 112  # directions, and columns of the bases that they lie in: reproduce/defaults
LONG = 160  # steps, beyond which Deep LoRA has other defaults: reproduce/defaults
LONG_RANK, LONG_WIDTH = 4, 56  # as many trained numbers
LONG_POWER = 0.8  # of the steps, by which the rate falls
HEAD_RATE = 1e-3  # slow enough that the adapter, not the head, does the fitting: reproduce/defaults


def two_rates(config: RunConfig, model: nn.Module, head: Parameters) -> Optimizer:
    """AdamW for what trains below the head, and for the head at its own rate; a head alone takes the run's."""
    own = {id(parameter) for parameter in head}
    body = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    rate, head_rate = config.lr or 0.0, (config.head_lr if body else config.lr) or 0.0
    groups = [
        {"params": body, "lr": rate, "weight_decay": config.weight_decay or 0.0},
        {"params": head, "lr": head_rate, "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]])


def cores_and_head(config: RunConfig, model: nn.Module, head: Parameters) -> Optimizer:
    """AdamW for Deep LoRA."""
    rate, decay = config.lr or 0.0, config.weight_decay or 0.0
    groups = param_groups(model, rate, config.basis_lr_ratio, other_lr=config.head_lr, weight_decay=decay)
    return AdamW(groups, eps=1e-6)


def no_callbacks(config: RunConfig, model: Any) -> Sequence[TrainerCallback]:
    """Nothing to do while it trains."""
    return ()


def preconditioned(config: RunConfig, model: nn.Module, head: Parameters) -> Optimizer:
    """As `two_rates`, with the gradients of LoRA pairs preconditioned by PEFT.

    Raises:
        InputError: a PEFT that does not do it yet.
    """
    try:
        from peft.optimizers import create_riemannian_optimizer
    except ImportError as error:
        raise InputError(
            "lora-one preconditions gradients by PEFT 0.21 or newer: pip install --upgrade peft"
        ) from error
    around: Any = model  # or the PEFT model itself
    options = {"lr": config.lr or 0.0, "reg": starts.ONE_RIDGE, "weight_decay": config.weight_decay or 0.0}
    optimizer = create_riemannian_optimizer(around, AdamW, **options)
    own = {id(parameter) for parameter in head}
    (body,) = optimizer.param_groups
    body["params"] = [parameter for parameter in body["params"] if id(parameter) not in own]
    if head:
        optimizer.add_param_group({"params": head, "lr": config.head_lr, "weight_decay": 0.0})
    return optimizer


@dataclass(frozen=True)
class Method:
    """How a model is adapted, where its adapter starts, and what of it trains.

    Attributes:
        rate: learning rate for a number of training rows, where the settings (with steps, shape and decay) leave it
            open; None if nothing trains.
        peft: PEFT's configuration from the settings, what all adapters share (`r`, `target_modules`,
            `exclude_modules`, `modules_to_save`, `task_type`) and the base model; None for a model without adapter.
        start: sets the adapter's start from training data, before there is an optimizer.
        callbacks: for Trainer, given the settings and the adapted model.
        optimizer: from the settings, what trains, and the head's share of it.
        shape: rank and what goes with it, where the settings (with steps) leave them open.
        decay: weight decay of what trains below the head, where the settings (with shape and steps) leave it open.
        by_rank: whether the rank changes anything.
        whole: without adapter, whether the model trains below its head too.
        trains: whether anything trains.
    """

    rate: Callable[[RunConfig, Task, int], float | None]
    peft: Callable[[RunConfig, dict[str, Any], PreTrainedModel], PeftConfig] | None = None
    start: Callable[[starts.Given], None] | None = None
    callbacks: Callable[[RunConfig, Any], Sequence[TrainerCallback]] = no_callbacks
    optimizer: Callable[[RunConfig, nn.Module, Parameters], Optimizer] = two_rates
    shape: Callable[[RunConfig], dict[str, int]] = lambda config: {"rank": RANK}
    decay: Callable[[RunConfig, Task], float] = lambda config, task: 0.0
    by_rank: bool = True
    whole: bool = False
    trains: bool = True


def _constant(rate: float) -> Callable[[RunConfig, Task, int], float]:
    return lambda config, task, rows: rate


def _lora(
    scale: int = 2, **options: Any
) -> Callable[[RunConfig, dict[str, Any], PreTrainedModel], PeftConfig]:
    def make(config: RunConfig, shared: dict[str, Any], base: PreTrainedModel) -> PeftConfig:
        return LoraConfig(lora_alpha=scale * shared["r"], **options, **shared)

    return make


def _adalora(config: RunConfig, shared: dict[str, Any], base: PreTrainedModel) -> PeftConfig:
    steps, rank = config.steps or 1, shared["r"]
    most = math.ceil(ADALORA_START * rank)
    return AdaLoraConfig(
        init_r=most,
        target_r=rank,
        lora_alpha=2 * most,
        tinit=steps // 10,
        tfinal=3 * steps // 10,
        total_step=steps,
        **{name: value for name, value in shared.items() if name != "r"},
    )


def _vera(config: RunConfig, shared: dict[str, Any], base: PreTrainedModel) -> PeftConfig:
    given = dict(shared)
    apart = given.pop("exclude_modules")  # which VeRA does not know, so the layers are listed
    if given["target_modules"] == "all-linear":
        output = base.get_output_embeddings()
        given["target_modules"] = [
            name
            for name, module in base.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and module is not output
            if not (apart and re.fullmatch(apart, name))
        ]
    return VeraConfig(projection_prng_key=config.seed, **given)


def _deep_lora(config: RunConfig, shared: dict[str, Any], base: PreTrainedModel) -> PeftConfig:
    return DeepLoraConfig(
        width=config.width or None,
        depth=config.depth,
        bases=config.bases,
        basis_lr_ratio=config.basis_lr_ratio,
        init_scale=config.init_scale,
        **shared,
    )


def _deep_lora_shape(config: RunConfig) -> dict[str, int]:
    """Few directions in wide bases; of a long run more in narrower ones, unless another rank or width is given."""
    long = (config.steps or 1) > LONG and config.rank in (None, LONG_RANK) and config.width is None
    return {"rank": LONG_RANK, "width": LONG_WIDTH} if long else {"rank": RANK, "width": WIDTH}


def _deep_lora_decay(config: RunConfig, task: Task) -> float:
    """Under a head, a narrow core that shrinks may go fast without learning few rows by heart."""
    narrow, long = (config.width or 0) > (config.rank or 1), (config.steps or 1) > LONG
    return 0.0 if task.head in ("cosine", "lm") or long or not narrow else DECAY


def _deep_lora_rate(config: RunConfig, task: Task, rows: int) -> float:
    """The more directions the slower, and the more often each row comes; two embeddings are good as they stand.

    A narrow core that decays goes faster. Of many steps each goes slower still, which keeps the loss of unseen rows
    lower. Adam moves a square core's norm by up to width times the rate; under a head less where rows are few: they
    come often, and what they agree on is learned early.
    """
    rank, steps = config.rank or 1, config.steps or 1
    if (config.width or 0) > rank:
        passes = max(1.0, steps * config.batch_size / rows)
        slower = math.sqrt(rank * passes) * max(1.0, steps / LONG) ** LONG_POWER
        decays = _deep_lora_decay(config, task) and (config.weight_decay or 0.0) >= DECAY
        faster = 2.0 if decays else 1.0
        return NARROW_RATE * {"cosine": 0.25}.get(task.head, 1.0) * faster / slower
    share = min(1.0, rows / FEW_ROWS)
    return {"cosine": 8e-3, "lm": 8e-2}.get(task.head, 1e-1 * share) / rank


def _set_bases(config: RunConfig, model: Any) -> Sequence[TrainerCallback]:
    if config.bases == "random":
        return ()
    generator = torch.Generator().manual_seed(config.seed)
    return (BasesCallback(bases_batches(config.steps or 1), generator=generator),)


def bases_batches(steps: int) -> int:
    """How many batches the bases are read off: a few of a short run, a share of a long one that costs it little."""
    return max(BASES_BATCHES, steps // BASES_SHARE)


class _Allocate(TrainerCallback):
    """AdaLoRA's allocation of ranks, after each step and before the gradients go."""

    def __init__(self, adapted: Any) -> None:
        self.adapted = adapted

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by Trainer."""
        self.adapted.base_model.update_and_allocate(state.global_step)


def _head_rate(config: RunConfig, task: Task, rows: int) -> float:
    if task.head in ("cosine", "lm"):
        raise InputError(f"head trains a head alone, and this task ({task.kind}, {task.head}) has none")
    return config.head_lr or (HEAD_RATE if task.head == "own" else 1e-2)


def _no_rate(config: RunConfig, task: Task, rows: int) -> None:
    if not comes_whole(task):
        raise InputError(
            f"untouched is the model as it comes, and this task ({task.kind}) puts a new head on it"
        )


DEEP_LORA = Method(
    _deep_lora_rate,
    _deep_lora,
    callbacks=_set_bases,
    optimizer=cores_and_head,
    shape=_deep_lora_shape,
    decay=_deep_lora_decay,
)
LORA = Method(_constant(3e-4), _lora())
DORA = Method(_constant(3e-4), _lora(use_dora=True))
PISSA = Method(_constant(3e-4), _lora(1, init_lora_weights="pissa"))  # alpha = rank, as its authors have it
EVA = Method(_constant(3e-4), _lora(init_lora_weights="eva", eva_config=EvaConfig()), start=starts.eva)
LORA_GA = Method(
    _constant(3e-4),
    _lora(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig()),
    start=starts.lora_ga,
)
LORA_ONE = Method(
    _constant(2e-4),
    lambda config, shared, base: LoraConfig(lora_alpha=16, use_rslora=True, **shared),
    start=starts.lora_one,
    optimizer=preconditioned,
)
ADALORA = Method(
    _constant(2e-3),
    _adalora,
    start=starts.keep_orthogonal,
    callbacks=lambda config, model: (_Allocate(model),),
)
VERA = Method(_constant(1e-2), _vera)
FULL = Method(_constant(3e-5), by_rank=False, whole=True)
HEAD = Method(_head_rate, by_rank=False)
UNTOUCHED = Method(_no_rate, by_rank=False, trains=False)

# What command lines and files of settings call them.
METHODS = {
    "lora": LORA,
    "deep-lora": DEEP_LORA,
    "lora-ga": LORA_GA,
    "lora-one": LORA_ONE,
    "eva": EVA,
    "pissa": PISSA,
    "adalora": ADALORA,
    "dora": DORA,
    "vera": VERA,
    "full": FULL,
    "head": HEAD,
    "untouched": UNTOUCHED,
}
