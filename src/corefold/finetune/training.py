"""One fine-tuning run, from settings to a finished output folder, on transformers' Trainer."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from corefold.adapters import LoraExport, to_lora
from corefold.finetune import folder
from corefold.finetune.config import RunConfig
from corefold.finetune.fitting import prepare
from corefold.finetune.methods import METHODS
from corefold.finetune.metrics import baseline
from corefold.finetune.problem import decided, draw_rows, encoded, read_tables, with_absolute_paths
from corefold.finetune.task import Task
from corefold.tables.atomic import write_json
from corefold.tables.writing import check_folder


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
        check_folder(out, overwrite)
    config = with_absolute_paths(config)
    tables = read_tables(config)
    train, held_out = draw_rows(config, tables)
    method = METHODS[config.method]
    config = decided(config, tables.task, len(train), method)
    problem = encoded(config, tables.task, train, held_out)
    task, rows = problem.task, problem.rows
    fit = prepare(problem, method, out, progress=progress, kept=True)
    if not resume:
        _begin(out, config)
    before = _once(out / folder.CHECKPOINTS / "before.json", fit.evaluate)
    checkpoint = folder.last_checkpoint(out / folder.CHECKPOINTS, config.steps or 0) if resume else None
    seconds = fit.train(checkpoint)
    after, history = fit.evaluate(), fit.trainer.state.log_history
    folder.save_model(out, folder.Run(task, fit.adapted, fit.model, problem.tokenizer))
    export = _export(config, fit.adapted, out)
    metrics = {
        "task": task.kind,
        "rows": {"train": len(rows.train), "eval": len(rows.eval)},
        "baseline": baseline(task, *([row["labels"] for row in part] for part in (rows.train, rows.eval))),
        "before": before,
        "after": after,
        "train_loss": _mean_loss(history),
        "adapter": {
            "method": config.method,
            "trainable_parameters": fit.trainable_parameters(),
            "bytes": (out / folder.ADAPTER).stat().st_size,
            "lora_bytes": (out / folder.LORA / folder.ADAPTER).stat().st_size,
            "lora_bytes_saved": export.bytes_saved if export else 0,
        },
        "timing": {"seconds_per_step": fit.timer.median(), "seconds": seconds},
        "versions": versions(),
    }
    write_json(out / folder.HISTORY, history)
    write_json(out / folder.METRICS, metrics)
    folder.remove(out / folder.CHECKPOINTS)
    return Result(out, config, task, metrics, history)


def versions() -> dict[str, str]:
    """Of what decides a result."""
    found = {name: version(name) for name in ("corefold", "torch", "transformers", "peft")}
    return found | {"python": platform.python_version()}


def _begin(out: Path, config: RunConfig) -> None:
    """Make the folder, and leave nothing in it that an earlier run would make this one look finished with."""
    out.mkdir(parents=True, exist_ok=True)
    folder.remove(out / folder.CHECKPOINTS)
    written = (*folder.CHECKED, folder.MANIFEST, folder.METRICS, folder.HISTORY, folder.REPORT)
    lora = [f"{folder.LORA}/{name}" for name in (folder.ADAPTER, folder.ADAPTER_CONFIG)]
    for name in (*written, *lora):
        (out / name).unlink(missing_ok=True)
    config.save(out / folder.SETTINGS)


def _once(path: Path, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The value stored at `path` by an earlier part of the run, else `compute()`, stored."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    value = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)
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
