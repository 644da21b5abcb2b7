"""One fine-tuning run, from settings to a finished output folder, on transformers' Trainer."""

from __future__ import annotations

import json
import math
import os
import platform
import random
import statistics
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from corefold.adapters import BasesCallback, LoraExport, param_groups, to_lora
from corefold.finetune import data, folder
from corefold.finetune.callbacks import ProgressBar, StepTimer, StopAtNonFiniteLoss
from corefold.finetune.config import RunConfig
from corefold.finetune.encoding import Collator, encode
from corefold.finetune.errors import InputError
from corefold.finetune.metrics import baseline, compute_metrics, token_scores
from corefold.finetune.models import build, load_tokenizer
from corefold.finetune.task import Task, choose_kind, longest_input, make_task

BASES_BATCHES = 4
CURVE_POINTS, CURVE_ROWS = 5, 128  # evaluations for the learning curve, and the rows of each
LOG_POINTS = 40
WARMUP = 0.1  # of the steps
PASSES, MIN_STEPS, MAX_STEPS = 10, 100, 500  # of a run whose steps are not set


@dataclass(frozen=True)
class Result:
    """What a finished run left.

    Attributes:
        out: the output folder.
        config: the settings, nothing left open.
        task: what was learned.
        metrics: the content of metrics.json.
        history: Trainer's log, for the learning curves.
    """

    out: Path
    config: RunConfig
    task: Task
    metrics: dict[str, Any]
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class _Rows:
    train: list[dict[str, Any]]
    eval: list[dict[str, Any]]


def finetune(
    config: RunConfig, out: Path, *, overwrite: bool = False, resume: bool = False, progress: bool = True
) -> Result:
    """Fine-tune a model and fill `out`: adapter, `lora/`, tokenizer, task.json, config.yaml and metrics.json.

    A run that was stopped goes on from its last checkpoint with `resume` and ends with the same metrics as one
    that was not; equal settings give equal results on one machine.

    Args:
        config: the settings.
        out: the output folder.
        overwrite: use `out` although it is not empty; files of the same names are replaced, no others.
        resume: go on in `out`; `config` must be what its config.yaml holds (`RunConfig(**load_settings(...))`).
        progress: show progress bars.

    Raises:
        InputError: anything wrong with settings, data, model or folder, or a loss that stops being finite.
    """
    if not resume:
        folder.check_free(out, overwrite)
    config = _with_absolute_paths(config)
    train, held_out, task = _read(config)
    config = _decided(config, task, len(train))
    tokenizer = load_tokenizer(config.model)
    task = replace(task, max_length=min(task.max_length, longest_input(config.model, tokenizer)))
    rows = _Rows(
        encode(task, tokenizer, train, config.train),
        encode(task, tokenizer, held_out, config.eval or config.train),
    )
    adapted, model = build(task, config)
    timer = StepTimer()
    try:
        trainer = _trainer(config, task, model, tokenizer, rows, out, timer, progress)
    except (ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"--tracker {config.tracker}: {error}") from error
    if not resume:
        _begin(out, config)
    before = _once(out / folder.CHECKPOINTS / "before.json", lambda: _evaluate(trainer, rows.eval))
    checkpoint = folder.last_checkpoint(out / folder.CHECKPOINTS, config.steps or 0) if resume else None
    try:
        trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except InputError:
        raise
    except ValueError as error:  # from initialize_bases: a layer that the loss does not reach, say
        raise InputError(str(error)) from error
    after = _evaluate(trainer, rows.eval)
    folder.save_model(out, folder.Run(task, adapted, model, tokenizer))
    export = _export(config, adapted, out)
    metrics = {
        "task": task.kind,
        "rows": {"train": len(rows.train), "eval": len(rows.eval)},
        "baseline": baseline(task, *([row["labels"] for row in part] for part in (rows.train, rows.eval))),
        "before": before,
        "after": after,
        "train_loss": _mean_loss(trainer.state.log_history),
        "adapter": {
            "method": config.method,
            "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "bytes": (out / folder.ADAPTER).stat().st_size,
            "lora_bytes": (out / folder.LORA / folder.ADAPTER).stat().st_size,
            "lora_bytes_saved": export.bytes_saved if export else 0,
        },
        "timing": {"seconds_per_step": timer.median(), "seconds": trained.metrics["train_runtime"]},
        "versions": {name: version(name) for name in ("corefold", "torch", "transformers", "peft")}
        | {"python": platform.python_version()},
    }
    folder.write_json(out / folder.HISTORY, trainer.state.log_history)
    folder.write_json(out / folder.METRICS, metrics)
    folder.remove(out / folder.CHECKPOINTS)
    return Result(out, config, task, metrics, trainer.state.log_history)


def _begin(out: Path, config: RunConfig) -> None:
    """Make the folder, and leave nothing in it that an earlier run would make this one look finished with."""
    out.mkdir(parents=True, exist_ok=True)
    folder.remove(out / folder.CHECKPOINTS)
    written = (*folder.CHECKED, folder.MANIFEST, folder.METRICS, folder.HISTORY, folder.REPORT)
    lora = [f"{folder.LORA}/{name}" for name in (folder.ADAPTER, folder.ADAPTER_CONFIG)]
    for name in (*written, *lora):
        (out / name).unlink(missing_ok=True)
    config.save(out / folder.SETTINGS)


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    def absolute(source: str | None) -> str | None:
        return str(Path(source).absolute()) if source and Path(source).exists() else source

    if not config.model:
        raise InputError("--model is missing: a folder, a .gguf file or a name on the Hugging Face hub")
    if not config.train:
        raise InputError("--train is missing: a csv, tsv, jsonl or parquet file, or a hub data set")
    return replace(
        config, model=absolute(config.model), train=absolute(config.train), eval=absolute(config.eval)
    )  # type: ignore[arg-type]


def _read(config: RunConfig) -> tuple[pd.DataFrame, pd.DataFrame, Task]:
    """The rows drawn to train and evaluate on, and the task."""
    table = data.read_table(config.train)
    columns = data.find_columns(config, table)
    kind = choose_kind(config, table, columns)
    train = data.clean(table, columns, kind, config.train)
    task = make_task(config, kind, columns, train)
    if config.eval is None:
        train, held_out = data.split_off(train, config.seed, config.train)
    else:
        held_out = data.clean(data.read_table(config.eval), columns, kind, config.eval)
    classes = columns.label if kind == "classification" else None
    train = data.draw(train, config.samples, config.seed, classes, config.train)
    held_out = data.draw(held_out, config.eval_samples, config.seed, classes, config.eval or config.train)
    if classes is not None and train[classes].nunique() < 2:
        raise InputError(
            f"the {len(train)} training rows have one class only, {train[classes].iloc[0]!r}; draw more"
        )
    return train, held_out, task


def _decided(config: RunConfig, task: Task, rows: int) -> RunConfig:
    steps = config.steps or min(MAX_STEPS, max(MIN_STEPS, PASSES * math.ceil(rows / config.batch_size)))
    return config.filled(
        task=task.kind,
        text=task.columns.text,
        label=task.columns.label,
        pair=task.pair,
        head=task.head if task.head in ("own", "mean") else None,
        lr=_default_lr(config, task),
        head_lr=1e-3 if task.head == "own" else 1e-2,
        steps=steps,
        checkpoint_every=max(1, steps // 10),
    )


def _default_lr(config: RunConfig, task: Task) -> float:
    """Adam moves a core's norm by up to width times the rate; a model that is good as it stands moves less."""
    if config.method == "lora":
        return 3e-4
    return (3e-3 if task.head == "cosine" else 1e-2) * 8 / config.rank


def _trainer(
    config: RunConfig,
    task: Task,
    model: nn.Module,
    tokenizer: Any,
    rows: _Rows,
    out: Path,
    timer: StepTimer,
    progress: bool,
) -> Trainer:
    if "tensorboard" in config.tracker:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out / "logs"))  # else among the checkpoints
    causal, steps = task.kind == "causal-lm", config.steps or MIN_STEPS
    arguments = TrainingArguments(
        output_dir=str(out / folder.CHECKPOINTS),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=max(16, config.batch_size),
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(WARMUP * steps),
        max_grad_norm=0.0,  # one norm over cores and head would mix gradients of 1e-3 and 1
        logging_steps=max(1, steps // LOG_POINTS),
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=max(1, steps // CURVE_POINTS),
        save_steps=config.checkpoint_every or steps,
        save_total_limit=2,
        seed=config.seed,
        report_to=config.tracker,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=not progress,
    )
    callbacks: list[TrainerCallback] = [timer, StopAtNonFiniteLoss()]
    if config.method == "deep-lora" and config.bases != "random":
        callbacks.append(BasesCallback(BASES_BATCHES, generator=torch.Generator().manual_seed(config.seed)))
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=Collator(tokenizer),
        train_dataset=rows.train,  # type: ignore[arg-type]
        eval_dataset=_some(rows.eval, CURVE_ROWS, config.seed),  # type: ignore[arg-type]
        compute_metrics=compute_metrics(task),
        preprocess_logits_for_metrics=token_scores if causal else _first_output,
        callbacks=callbacks,
        optimizers=(_optimizer(config, model), None),
    )
    trainer.remove_callback(ProgressCallback if progress else PrinterCallback)
    if progress:
        trainer.add_callback(ProgressBar)
    return trainer


def _optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    lr, head_lr = config.lr or 0.0, config.head_lr
    if config.method == "deep-lora":
        groups = param_groups(model, lr, config.basis_lr_ratio, other_lr=head_lr)
        return torch.optim.AdamW(groups, eps=1e-6, weight_decay=0.0)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    adapter = [p for name, p in trained if "lora_" in name]
    head = [p for name, p in trained if "lora_" not in name]
    groups = [{"params": adapter, "lr": lr}] + ([{"params": head, "lr": head_lr}] if head else [])
    return torch.optim.AdamW(groups, weight_decay=0.0)


def _some(rows: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    return rows if len(rows) <= count else random.Random(seed).sample(rows, count)


def _evaluate(trainer: Trainer, rows: list[dict[str, Any]]) -> dict[str, float]:
    found = trainer.evaluate(rows)  # type: ignore[arg-type]
    timing = ("time", "per_second", "epoch")
    return {name.removeprefix("eval_"): value for name, value in found.items() if not name.endswith(timing)}


def _first_output(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs  # some models return their states too


def _once(path: Path, compute: Any) -> dict[str, float]:
    """The value stored at `path` by an earlier part of the run, else `compute()`, stored."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    value = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    folder.write_json(path, value)
    return value


def _export(config: RunConfig, adapted: Any, out: Path) -> LoraExport | None:
    if config.method == "lora":
        adapted.save_pretrained(str(out / folder.LORA))
        return None
    return to_lora(*folder.check_adapter(out), out / folder.LORA, config.tolerance)  # type: ignore[arg-type]


def _mean_loss(history: list[dict[str, Any]]) -> float:
    """Mean of the last tenth of the logged training losses."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])
