"""How a method of training is described, and how the settings of a run are decided for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

from peft import PeftConfig
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel, TrainerCallback

from corefold.adapters.deep_lora.recipe import HEAD_LR, default_steps
from corefold.errors import InputError
from corefold.finetune.config import ClassWeight, Keep, Kept, Objective, RunConfig
from corefold.finetune.peer_initialization import InitializationData
from corefold.finetune.task import Task

# Settings that nothing has whose method does not train.
OF_TRAINING = ("rank", "lr", "weight_decay", "head_lr", "steps", "checkpoint_every")
Value = TypeVar("Value")
Own = TypeVar("Own")  # the settings that only one method has
Parameters = list[nn.Parameter]


@dataclass(frozen=True)
class Decision(Generic[Own]):
    """A method's part of the decided settings.

    Attributes:
        rank: rank of the update.
        lr: learning rate of everything that trains below the head.
        weight_decay: weight decay of the same.
        own: the settings that only this method has, None if it has none.
    """

    rank: int
    lr: float
    weight_decay: float
    own: Own


@dataclass(frozen=True)
class Decided(Generic[Own]):
    """The settings of a training run once nothing is open any more; whatever trains takes these.

    Attributes:
        method: how the model is adapted and trained.
        own: the settings that only this method has.
        rank, lr, weight_decay: as in `Decision`.
        head_lr: learning rate of the head.
        steps, batch_size: optimizer steps, and rows in each batch.
        grad_accum, gradient_checkpointing, target_modules, exclude_modules, from_run, seed, checkpoint_every, tracker,
            keep, patience, objective, class_weight: as in `RunConfig`.
    """

    method: Method[Own]
    own: Own
    rank: int
    lr: float
    weight_decay: float
    head_lr: float
    steps: int
    batch_size: int
    grad_accum: int
    gradient_checkpointing: bool
    target_modules: str
    exclude_modules: str | None
    from_run: str | None
    seed: int
    checkpoint_every: int
    tracker: str
    keep: Keep = "last"
    patience: int | None = None
    objective: Objective = "cross-entropy"
    class_weight: ClassWeight | None = None

    @property
    def selects(self) -> bool:
        """Whether training rows are held out to choose the step that is kept, or the one to stop at."""
        return self.method.trains and (self.keep == "best" or self.patience is not None)

    @property
    def fits_head(self) -> bool:
        """Whether a linear head is fitted to the embeddings of the training rows in the end."""
        return self.method.fits_head or self.objective == "pairs"


def two_rates(settings: Decided[Any], model: nn.Module, head: Parameters) -> Optimizer:
    """AdamW with one rate below the head and another for the head; a head alone trains at the run's rate."""
    of_head = {id(parameter) for parameter in head}
    body = [p for p in model.parameters() if p.requires_grad and id(p) not in of_head]
    head = [parameter for parameter in head if parameter.requires_grad]
    groups = [
        {"params": body, "lr": settings.lr, "weight_decay": settings.weight_decay},
        {"params": head, "lr": settings.head_lr if body else settings.lr, "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]])


def no_callbacks(settings: Decided[Any], model: Any) -> Sequence[TrainerCallback]:
    """No callbacks."""
    return ()


@dataclass(frozen=True)
class Method(Generic[Own]):
    """How a model is adapted, where its adapter starts, and how it trains.

    Attributes:
        decide: from the settings, the task, the number of training rows and the steps, the method's part of the
            decided settings. What the settings fix stays. May raise InputError.
        peft: from the decided settings, the arguments that all adapters share (`r`, `target_modules`,
            `exclude_modules`, `modules_to_save`, `task_type`) and the base model, PEFT's configuration; None for a
            method without adapter.
        initialize: sets the adapter's start from training data, before there is an optimizer.
        callbacks: from the decided settings and the adapted model, callbacks for Trainer.
        optimizer: from the decided settings, the model that trains and its head's parameters, the optimizer.
        has_rank: whether the rank changes anything.
        trains_body: without adapter, whether the model trains below its head too.
        trains: whether anything trains by gradients.
        fits_head: whether a linear head is fitted to the embeddings of the training rows, whatever the objective.
        keeps: the weights that a run of this method keeps.
        changes_base: whether the adapter's start is taken out of the base model's weights.
        low_rank: whether the adapter adds a low-rank matrix to each weight, as a plain LoRA can.
        resumes: whether a stopped run can go on to the same result.
    """

    decide: Callable[[RunConfig, Task, int, int], Decision[Own]]
    peft: Callable[[Decided[Own], dict[str, Any], PreTrainedModel], PeftConfig] | None = None
    initialize: Callable[[InitializationData], None] | None = None
    callbacks: Callable[[Decided[Own], Any], Sequence[TrainerCallback]] = no_callbacks
    optimizer: Callable[[Decided[Own], nn.Module, Parameters], Optimizer] = two_rates
    has_rank: bool = True
    trains_body: bool = False
    trains: bool = True
    fits_head: bool = False
    keeps: Kept = "adapter"
    changes_base: bool = False
    low_rank: bool = False
    resumes: bool = True


def decide(config: RunConfig, task: Task, rows: int, method: Method[Own]) -> Decided[Own]:
    """Decide every setting that is open, for this task, number of training rows and method.

    Raises:
        InputError: settings that do not fit each other, or a task that the method cannot train.
    """
    steps = value_or(config.steps, default_steps(rows, config.batch_size * config.grad_accum))
    decision = method.decide(config, task, rows, steps)
    return Decided(
        method=method,
        own=decision.own,
        rank=decision.rank,
        lr=decision.lr,
        weight_decay=decision.weight_decay,
        head_lr=value_or(config.head_lr, HEAD_LR),
        steps=steps,
        batch_size=config.batch_size,
        grad_accum=config.grad_accum,
        gradient_checkpointing=config.gradient_checkpointing,
        target_modules=config.target_modules,
        exclude_modules=config.exclude_modules,
        from_run=config.from_run,
        seed=config.seed,
        checkpoint_every=value_or(config.checkpoint_every, max(1, steps // 10)),
        tracker=config.tracker,
        keep=config.keep,
        patience=config.patience,
        objective=_objective(config, task, method),
        class_weight=config.class_weight,
    )


def _objective(config: RunConfig, task: Task, method: Method[Any]) -> Objective:
    wanted = config.objective or "cross-entropy"
    if wanted == "pairs":
        if (task.kind, task.head) != ("classification", "mean") or task.pair == "separate":
            raise InputError(
                "--objective pairs needs classes and a new head on one embedding of each row; this task is "
                f"{task.kind} with head {task.head}{' on two embeddings' if task.pair == 'separate' else ''}"
            )
        if method.trains and method.peft is None and not method.trains_body:
            raise InputError("--objective pairs trains embeddings, and this method trains a head alone")
    return wanted


def record_decisions(config: RunConfig, task: Task, settings: Decided[Any]) -> RunConfig:
    """The settings as a user may give them, with every decision: a run with these is the same run."""
    decided = {**_fields(task.columns), **_fields(settings.own), **_fields(settings)}
    decided |= {"task": task.kind, "pair": task.pair}
    if task.head in ("own", "mean"):
        decided["head"] = task.head
    if not settings.method.trains:
        decided = {name: value for name, value in decided.items() if name not in OF_TRAINING}
    options = {option.name for option in fields(RunConfig)}
    return config.with_defaults().filled({name: value for name, value in decided.items() if name in options})


def value_or(value: Value | None, default: Value) -> Value:
    """A setting, or its default if it is open."""
    return default if value is None else value


def _fields(settings: Any) -> dict[str, Any]:
    return (
        {each.name: getattr(settings, each.name) for each in fields(settings)}
        if is_dataclass(settings)
        else {}
    )
