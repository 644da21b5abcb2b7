"""A model and transformers' Trainer around it: the one place where anything is trained."""

from __future__ import annotations

import math
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from corefold.errors import InputError
from corefold.finetune import folder, starts
from corefold.finetune.callbacks import ProgressBar, StepTimer, StopAtNonFiniteLoss
from corefold.finetune.config import RunConfig
from corefold.finetune.encoding import Collator
from corefold.finetune.methods import Method
from corefold.finetune.metrics import compute_metrics, token_scores
from corefold.finetune.models import build, head_of
from corefold.finetune.problem import MIN_STEPS, Problem

CURVE_POINTS, CURVE_ROWS = 5, 128  # evaluations for the learning curve, and the rows of each
LOG_POINTS = 40
WARMUP = 0.1  # of the steps


@dataclass(frozen=True)
class Fit:
    """A model that is trained, or about to be.

    Attributes:
        problem: what it trains on.
        adapted: the model with the adapter, or the plain model where the method has none.
        model: what trains: the same, or an `EncoderModel` around it.
        trainer: transformers' Trainer.
        timer: times its steps.
    """

    problem: Problem
    adapted: Any
    model: nn.Module
    trainer: Trainer
    timer: StepTimer

    def train(self, checkpoint: Path | None = None) -> float:
        """Train what there is to train, from a checkpoint on if one is given, and return the seconds it took.

        Raises:
            InputError: the loss stops being finite, or misses a layer.
        """
        if not self.trainable_parameters():
            return 0.0
        try:
            trained = self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except InputError:
            raise
        except ValueError as error:  # from initialize_bases: a layer that the loss does not reach, say
            raise InputError(str(error)) from error
        return trained.metrics["train_runtime"]

    def evaluate(self) -> dict[str, float]:
        """Scores and loss on the evaluation rows."""
        found = self.trainer.evaluate(self.problem.rows.eval)  # type: ignore[arg-type]
        timing = ("time", "per_second", "epoch")
        return {
            name.removeprefix("eval_"): value for name, value in found.items() if not name.endswith(timing)
        }

    def trainable_parameters(self) -> int:
        """How many numbers train."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def prepare(
    problem: Problem, method: Method, out: Path, *, progress: bool = False, kept: bool = False
) -> Fit:
    """A model for this problem, its start, and the Trainer that will train it.

    Args:
        problem: what to train on.
        method: how to adapt the model.
        out: the folder of the run, for checkpoints.
        progress: show progress bars.
        kept: whether this is a run to look at and to go on with: it gets checkpoints and a learning curve.

    Raises:
        InputError: the model cannot be adapted by this method, or the tracker is not there.
    """
    adapted, model = build(problem.task, problem.config, method)
    if method.start is not None:
        _start(problem, method.start, adapted, model)
    timer = StepTimer()
    callbacks = [timer, StopAtNonFiniteLoss(), *method.callbacks(problem.config, adapted)]
    optimizer = (
        method.optimizer(problem.config, model, head_of(model, problem.task)) if method.trains else None
    )
    try:
        trainer = _trainer(
            problem, model, optimizer, callbacks, _arguments(problem.config, out, progress, kept)
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"--tracker {problem.config.tracker}: {error}") from error
    trainer.remove_callback(ProgressCallback if progress else PrinterCallback)
    if progress:
        trainer.add_callback(ProgressBar)
    return Fit(problem, adapted, model, trainer, timer)


def _start(problem: Problem, start: Any, adapted: Any, model: nn.Module) -> None:
    config = problem.config
    order = torch.randperm(len(problem.rows.train), generator=torch.Generator().manual_seed(config.seed))
    rows = [problem.rows.train[place] for place in order.tolist()]
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # randomized decompositions draw from it
        start(starts.Given(adapted, model, rows, Collator(problem.tokenizer), config.batch_size))


def _arguments(config: RunConfig, out: Path, progress: bool, kept: bool) -> TrainingArguments:
    steps = config.steps or MIN_STEPS
    if "tensorboard" in config.tracker:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out / "logs"))  # else among the checkpoints
    return TrainingArguments(
        output_dir=str(out / folder.CHECKPOINTS),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=max(16, config.batch_size),
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(WARMUP * steps),
        max_grad_norm=0.0,  # one norm over cores and head would mix gradients of 1e-3 and 1
        logging_steps=max(1, steps // LOG_POINTS),
        logging_nan_inf_filter=False,
        eval_strategy="steps" if kept else "no",
        eval_steps=max(1, steps // CURVE_POINTS),
        save_strategy="steps" if kept else "no",
        save_steps=config.checkpoint_every or steps,
        save_total_limit=2,
        seed=config.seed,
        report_to=config.tracker,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=not progress,
    )


def _trainer(
    problem: Problem,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    callbacks: list[TrainerCallback],
    arguments: TrainingArguments,
) -> Trainer:
    return Trainer(
        model=model,
        args=arguments,
        data_collator=Collator(problem.tokenizer),
        train_dataset=problem.rows.train,  # type: ignore[arg-type]
        eval_dataset=_some(problem.rows.eval, CURVE_ROWS, problem.config.seed),  # type: ignore[arg-type]
        compute_metrics=compute_metrics(problem.task),
        preprocess_logits_for_metrics=token_scores if problem.task.kind == "causal-lm" else _first_output,
        callbacks=callbacks,
        optimizers=(optimizer, None),
    )


def _some(rows: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    return rows if len(rows) <= count else random.Random(seed).sample(rows, count)


def _first_output(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs  # some models return their states too
