"""A model and transformers' Trainer around it: the one place where anything is trained."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
)

from corefold.errors import InputError
from corefold.finetune import folder
from corefold.finetune.callbacks import FitHead, ProgressBar, StepTimer, StopAtNonFiniteLoss
from corefold.finetune.encoding import PARTS, Collator
from corefold.finetune.linear_head import TRAINED_STRENGTH, FittedHead, LinearHead, fit_head
from corefold.finetune.loading import check_tokens
from corefold.finetune.method import Decided
from corefold.finetune.models import EncoderModel, build, head_of
from corefold.finetune.peer_initialization import InitializationData
from corefold.finetune.run_data import RunData
from corefold.finetune.scoring import Outputs
from corefold.finetune.task import Task
from corefold.finetune.tasks.kind import Loss
from corefold.finetune.tasks.kinds import kind_of
from corefold.finetune.tasks.text_head import TextHeadKind

CURVE_POINTS, CURVE_ROWS = 5, 128  # evaluations for the learning curve, and the rows of each
LOG_POINTS = 40
WARMUP_SHARE = 0.1  # share of the steps


@dataclass(frozen=True)
class TrainingRun:
    """A model that is trained, or about to be.

    Attributes:
        data: settings, task and rows.
        adapted: the model with the adapter, or the plain model if the method has no adapter.
        model: the model that trains: the same, or an `EncoderModel` around it.
        trainer: transformers' Trainer.
        timer: measures the time of its steps.
    """

    data: RunData
    adapted: Any
    model: nn.Module
    trainer: Trainer
    timer: StepTimer

    def train(self, checkpoint: Path | None = None) -> float:
        """Train, from a checkpoint on if there is one, fit the head, and return the seconds that it took.

        Raises:
            InputError: the loss stops being finite, or does not depend on a layer.
        """
        method, seconds = self.data.settings.method, 0.0
        if method.trains and self.trainable_parameters():
            seconds = self._train(checkpoint)
        if self.data.settings.fits_head:
            began = time.perf_counter()
            self.fit_head()
            seconds += time.perf_counter() - began
        return seconds

    def _train(self, checkpoint: Path | None) -> float:
        if checkpoint is not None:
            folder.point_to_best(checkpoint)
        try:
            trained = self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except InputError:
            raise
        except ValueError as error:  # from initialize_bases, if the loss does not depend on a layer
            raise InputError(str(error)) from error
        return trained.metrics["train_runtime"]

    def fit_head(self) -> FittedHead:
        """Put the best linear head for the training rows on the model as it is."""
        task, settings, model = self.data.task, self.data.settings, self.model
        kind, rows = kind_of(task), self.data.train
        if not (isinstance(kind, TextHeadKind) and isinstance(model, EncoderModel) and model.head):
            raise InputError(f"a task of kind {task.kind} and head {task.head} has no linear head to fit")
        targets = np.array([row["labels"] for row in rows])
        balanced = settings.class_weight is not None

        def fit(features: np.ndarray, labels: np.ndarray, strength: float) -> LinearHead:
            return kind.linear_head(task, features, labels, strength, balanced)

        strength = TRAINED_STRENGTH if settings.method.trains else None
        # Not the weighted loss: a class of a row or two would choose for all.
        fitted = fit_head(self._head_features(model, rows), targets, fit, kind.loss, settings.seed, strength)
        with torch.no_grad():
            model.head.weight.copy_(torch.from_numpy(fitted.head.weight))
            model.head.bias.copy_(torch.from_numpy(fitted.head.bias))
        return fitted

    def _head_features(self, model: EncoderModel, rows: list[dict[str, Any]]) -> np.ndarray:
        arguments = self.trainer.args
        model.to(arguments.device).eval()
        size, parts = arguments.per_device_eval_batch_size, []
        for start in range(0, len(rows), size):
            batch = self.trainer.data_collator(rows[start : start + size])
            texts = {name: batch[name] for name in PARTS if name in batch}
            batch: Any = send_to_device(texts, arguments.device)
            parts.append(model.head_features(**batch).double().cpu().numpy())
        return np.concatenate(parts)

    def evaluate(self) -> dict[str, float]:
        """Scores and loss on the evaluation rows."""
        scores = self.trainer.evaluate(self.data.eval)  # type: ignore[arg-type]
        return _without_timing(scores, "eval_")

    def outputs(self) -> Outputs:
        """The outputs for the evaluation rows, with their labels and scores."""
        found = self.trainer.predict(self.data.eval)  # type: ignore[arg-type]
        kept, labels = np.asarray(found.predictions), np.asarray(found.label_ids)
        return Outputs(kept, labels, _without_timing(found.metrics or {}, "test_"))

    def kept_step(self) -> int:
        """The step whose model was kept."""
        best = self.trainer.state.best_model_checkpoint
        chosen = self.data.settings.keep == "best" and best is not None
        return int(Path(best).name.rpartition("-")[2]) if chosen else self.trainer.state.global_step  # type: ignore[arg-type]

    def trainable_parameters(self) -> int:
        """The number of parameters that train, those of a head that is fitted in the end included."""
        head = {id(parameter) for parameter in head_of(self.model, self.data.task)}
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad or id(p) in head)


def _without_timing(scores: Mapping[str, float], prefix: str) -> dict[str, float]:
    timing = ("time", "per_second", "epoch")
    return {name.removeprefix(prefix): value for name, value in scores.items() if not name.endswith(timing)}


def prepare(data: RunData, out: Path, *, progress: bool = False, keep: bool = False) -> TrainingRun:
    """Load and adapt the model, initialize the adapter, and make the Trainer that will train it.

    Args:
        data: settings, task and rows.
        out: the folder of the run, for checkpoints.
        progress: show progress bars.
        keep: whether the run is kept, and so gets checkpoints and a learning curve.

    Raises:
        InputError: the method cannot adapt the model, or the tracker is not installed.
    """
    settings, method = data.settings, data.settings.method
    data, adapted, model = _with_models(data)
    if method.initialize is not None and settings.from_run is None:
        _initialize(data, method.initialize, adapted, model)
    timer = StepTimer()
    callbacks = [
        timer,
        StopAtNonFiniteLoss(),
        *_early_stopping(settings),
        *method.callbacks(settings, adapted),
    ]
    optimizer = method.optimizer(settings, model, head_of(model, data.task)) if method.trains else None
    try:
        trainer = _trainer(data, model, optimizer, callbacks, _arguments(data, out, progress, keep))
    except InputError:
        raise
    except (ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"--tracker {settings.tracker}: {error}") from error
    trainer.remove_callback(ProgressCallback if progress else PrinterCallback)
    if progress:
        trainer.add_callback(ProgressBar)
    run = TrainingRun(data, adapted, model, trainer, timer)
    if method.trains and settings.fits_head:
        trainer.add_callback(FitHead(run.fit_head))
    return run


def _with_models(data: RunData) -> tuple[RunData, Any, nn.Module]:
    """The models, new or of the run that the settings start from, and the data with the digest of the base model."""
    settings = data.settings
    if settings.from_run is None:
        adapted, model, digest = build(data.task, settings)
    else:
        run = folder.load_run(Path(settings.from_run), trainable=True)
        adapted, model, digest = run.adapted, run.model, run.task.base_digest
    if isinstance(model, EncoderModel):
        model.train_for(settings.objective)
    parts = {"training": data.train, "held-out training": data.selection, "evaluation": data.eval}
    for name, rows in parts.items():
        check_tokens(rows, adapted, data.tokenizer, f"the {name} rows")
    return replace(data, task=replace(data.task, base_digest=digest)), adapted, model


def _initialize(
    data: RunData, initialize: Callable[[InitializationData], None], adapted: Any, model: nn.Module
) -> None:
    seed = data.settings.seed
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    rows = [data.train[place] for place in order.tolist()]
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # randomized decompositions use the global generator
        initialize(
            InitializationData(adapted, model, rows, Collator(data.tokenizer), data.settings.batch_size)
        )


def _early_stopping(settings: Decided[Any]) -> list[TrainerCallback]:
    stops = settings.selects and settings.patience is not None
    return [EarlyStoppingCallback(settings.patience or 1)] if stops else []


def _arguments(data: RunData, out: Path, progress: bool, keep: bool) -> dict[str, Any]:
    settings, steps, selects = data.settings, data.settings.steps, keep and data.settings.selects
    if "tensorboard" in settings.tracker:
        # By default they would lie among the checkpoints.
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out / "logs"))
    return {
        "output_dir": str(out / folder.CHECKPOINTS),
        "max_steps": steps,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.grad_accum,
        "per_device_eval_batch_size": max(16, settings.batch_size),
        "lr_scheduler_type": "linear",
        "warmup_steps": math.ceil(WARMUP_SHARE * steps),
        "max_grad_norm": 0.0,  # a norm over all would compare gradients of 1e-3 in cores with 1 in the head
        "logging_steps": max(1, steps // LOG_POINTS),
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if keep and (data.eval or selects) else "no",
        # Trainer can only keep a step that it has both evaluated and saved.
        "eval_steps": settings.checkpoint_every if selects else max(1, steps // CURVE_POINTS),
        "load_best_model_at_end": selects and settings.keep == "best",
        "metric_for_best_model": "loss" if selects else None,
        "greater_is_better": False if selects else None,
        "restore_callback_states_from_checkpoint": selects,  # how long the loss has not fallen
        "save_strategy": "steps" if keep else "no",
        "save_steps": settings.checkpoint_every,
        "save_total_limit": 2,
        "seed": settings.seed,
        "report_to": settings.tracker,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": not progress,
    }


def _trainer(
    data: RunData,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    callbacks: list[TrainerCallback],
    arguments: dict[str, Any],
) -> Trainer:
    return kind_of(data.task).make_trainer(
        arguments,
        data.tokenizer,
        model=model,
        data_collator=Collator(data.tokenizer),
        train_dataset=data.train,  # type: ignore[arg-type]
        eval_dataset=data.selection or _sample(data.eval, CURVE_ROWS, data.settings.seed),  # type: ignore[arg-type]
        compute_loss_func=_weighted_loss(data),
        compute_metrics=_scores_of(data.task),
        preprocess_logits_for_metrics=kind_of(data.task).kept_outputs,
        callbacks=callbacks,
        optimizers=(optimizer, None),
    )


def _weighted_loss(data: RunData) -> Loss | None:
    if data.settings.class_weight is None or data.settings.objective == "pairs":
        return None
    return kind_of(data.task).weighted_loss(data.task, [row["labels"] for row in data.train])


def _sample(rows: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    return rows if len(rows) <= count else random.Random(seed).sample(rows, count)


def _scores_of(task: Task) -> Callable[[EvalPrediction], dict[str, float]]:
    kind = kind_of(task)
    return lambda found: kind.scores(task, np.asarray(found.predictions), np.asarray(found.label_ids))
