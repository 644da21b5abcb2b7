"""One fine-tuning run, from settings to a finished output folder, on transformers' Trainer."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from corefold.adapters import LoraExport
from corefold.errors import InputError
from corefold.finetune import folder
from corefold.finetune.config import RunConfig
from corefold.finetune.continuing import continued
from corefold.finetune.cross_validation import cross_validate
from corefold.finetune.method import record_decisions
from corefold.finetune.methods import METHODS
from corefold.finetune.metrics import kept_step, scores_of_run
from corefold.finetune.portable import adapter as portable
from corefold.finetune.processes import is_first, wait_for_all
from corefold.finetune.run_data import (
    RunData,
    check_selection,
    class_notes,
    draw_rows,
    draw_rows_for_folds,
    folds_of,
    prepare_data,
    read_tables,
    with_absolute_paths,
)
from corefold.finetune.scoring import judge
from corefold.finetune.task import Task
from corefold.finetune.trainer import TrainingRun, prepare
from corefold.tables.atomic import write_json
from corefold.tables.writing import check_folder


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        out: the output folder.
        config: the settings, nothing left open.
        task: the task that it learned.
        metrics: the content of metrics.json.
        history: Trainer's log, for the learning curves.
    """

    out: Path
    config: RunConfig
    task: Task
    metrics: dict[str, Any]
    history: list[dict[str, Any]]


def finetune(
    config: RunConfig,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    note: Callable[[str], None] | None = None,
) -> Result:
    """Fine-tune a model and fill `out`: adapter, `lora/`, tokenizer, task.json, config.yaml and metrics.json.

    A run that was stopped continues from its last checkpoint with `resume` and ends with the same metrics as one
    that was not; equal settings give equal results on one machine.

    Args:
        config: the settings.
        out: the output folder.
        overwrite: use `out` although it is not empty; files of the same names are replaced, no others.
        resume: continue the run in `out`; `config` must hold the settings of its config.yaml,
            `RunConfig(**load_settings(...))`.
        progress: show progress bars.
        note: called with a line for each guess, before training, and for each fold.

    Raises:
        InputError: anything wrong with settings, data, model or folder, rows that changed before a `resume`, or a
            loss that stops being finite.
    """
    say = note or (lambda line: None)
    if not resume and is_first():
        check_folder(out, overwrite)
    config = with_absolute_paths(continued(config))
    folder.check_output(out, config)
    method = METHODS[config.method]
    if resume and not method.resumes:
        raise InputError(
            f"--resume: PEFT keeps no state of the ranks of {config.method}; start again with --overwrite"
        )
    tables = read_tables(config)
    for line in tables.notes:
        say(line)
    digests = tables.digests()
    if resume:
        _check_rows(out, config, digests)
    draw = draw_rows_for_folds if config.folds else draw_rows
    train, held_out = draw(config, tables)
    if config.folds:
        check_selection(config, min(len(split.train) for split in folds_of(config, tables.task, train)))
    data = prepare_data(config, tables.task, train, held_out, method)
    for line in (*data.notes, *_notes(config, data, train, held_out)):
        say(line)
    config = record_decisions(config, data.task, data.settings)
    run = prepare(data, out, progress=progress, keep=True)
    data = run.data
    if not resume and is_first():
        _begin(out, config, digests)
    wait_for_all()
    checkpoints, across = out / folder.CHECKPOINTS, None
    if config.folds:
        across = cross_validate(config, tables.task, train, out, progress=progress, note=say)
        say(f"the {config.folds} folds are finished; the model to keep trains on {len(train)} rows")
        # Anew, because the folds used up random numbers.
        run = prepare(data, out, progress=progress, keep=True)
    initial = checkpoints / "initial" if method.changes_base and config.from_run is None else None
    if initial is not None and is_first():
        run.adapted.save_pretrained(str(initial))
    before = folder.stored_or_computed(checkpoints / "before.json", run.evaluate) if data.eval else {}
    seconds = run.train(folder.last_checkpoint(checkpoints, data.settings.steps) if resume else None)
    history = run.trainer.state.log_history
    judged = judge(data.task, run.outputs(), config.seed) if data.eval else None
    if is_first():
        scores = {**scores_of_run(data, before, judged, across), **kept_step(run)}
        _write(out, config, run, scores, seconds, initial, say)
    wait_for_all()
    return Result(out, config, data.task, folder.read_json(out / folder.METRICS), history)


def _write(
    out: Path,
    config: RunConfig,
    run: TrainingRun,
    scores: dict[str, Any],
    seconds: float,
    initial: Path | None,
    say: Callable[[str], None],
) -> None:
    """Fill the folder of a run that has ended; metrics.json, which says so, comes last."""
    history, tokenizer = run.trainer.state.log_history, run.data.tokenizer
    task = replace(run.data.task, kept=METHODS[config.method].keeps)
    folder.save_model(out, folder.Run(task, run.adapted, run.model, tokenizer), initial)
    export = _export(config, out, tokenizer, say)
    metrics = {
        **scores,
        "train_loss": _mean_loss(history),
        "adapter": _adapter_figures(out, config, run, export),
        "timing": {"seconds_per_step": run.timer.median(), "seconds": seconds},
        "versions": versions(),
    }
    write_json(out / folder.HISTORY, history)
    write_json(out / folder.METRICS, metrics)
    folder.remove(out / folder.CHECKPOINTS)


def _notes(config: RunConfig, data: RunData, train: pd.DataFrame, held_out: pd.DataFrame | None) -> list[str]:
    """Lines on the rows: classes that are left out, rows that choose the step, folds that cannot be made."""
    if config.folds:
        splits = folds_of(config, data.task, train)
        judged = train.iloc[np.concatenate([split.judged for split in splits])]
        lines = class_notes(data.task, train, judged)
    else:
        lines = class_notes(data.task, train, train if held_out is None else held_out)
    if data.selection:
        what = "to keep (--keep best)" if data.settings.keep == "best" else "to stop at (--patience)"
        lines.append(
            f"{len(data.selection)} of the {len(train)} training rows do not train: their loss chooses the step {what}"
        )
    return lines


def versions() -> dict[str, str]:
    """The versions of everything that decides a result."""
    packages = {name: version(name) for name in ("corefold", "torch", "transformers", "peft")}
    return packages | {"python": platform.python_version()}


def _check_rows(out: Path, config: RunConfig, digests: dict[str, str | None]) -> None:
    """Refuse rows other than those that the run in `out` began with; a run of an older version has no digests."""
    path = out / folder.CHECKPOINTS / folder.DATA
    stored = folder.read_json(path) if path.exists() else {}
    for name, source in (("train", config.train), ("eval", config.eval)):
        if name in stored and stored[name] != digests[name]:
            raise InputError(
                f"{source}: the rows are others than those that the run in {out} began with; restore the file to "
                "resume, or begin again with another -o or --overwrite"
            )


def _begin(out: Path, config: RunConfig, digests: dict[str, str | None]) -> None:
    """Make the folder, and remove the files of an earlier run, with which this one would look finished."""
    out.mkdir(parents=True, exist_ok=True)
    folder.remove(out / folder.CHECKPOINTS)
    written = (*folder.CHECKED, folder.MANIFEST, folder.METRICS, folder.HISTORY, folder.REPORT)
    lora = [f"{folder.LORA}/{name}" for name in (folder.ADAPTER, folder.ADAPTER_CONFIG)]
    for name in (*written, *lora):
        (out / name).unlink(missing_ok=True)
    (out / folder.CHECKPOINTS).mkdir(exist_ok=True)
    write_json(out / folder.CHECKPOINTS / folder.DATA, digests)
    config.save(out / folder.SETTINGS)


def _export(
    config: RunConfig, out: Path, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
) -> LoraExport | None:
    """Write `lora/`, where the method has one, and the files by which other tools load both folders."""
    if not METHODS[config.method].low_rank:
        return None
    export = portable.export(out, out / folder.LORA, config.tolerance, say)
    portable.complete_run(out, out / folder.LORA, tokenizer)
    return export


def _adapter_figures(
    out: Path, config: RunConfig, run: TrainingRun, export: LoraExport | None
) -> dict[str, Any]:
    lora = out / folder.LORA / folder.ADAPTER
    return {
        "method": config.method,
        "trainable_parameters": run.trainable_parameters(),
        "bytes": sum(path.stat().st_size for path in out.glob("*.safetensors")),
        "lora_bytes": lora.stat().st_size if lora.exists() else None,
        "lora_bytes_saved": export.bytes_saved if export else 0,
    }


def _mean_loss(history: list[dict[str, Any]]) -> float | None:
    """Mean of the last tenth of the logged training losses; None where nothing trains by steps."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return statistics.fmean(losses[-max(1, len(losses) // 10) :]) if losses else None
