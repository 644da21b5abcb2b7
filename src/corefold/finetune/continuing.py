"""Going on from a finished run: its model, adapter, head and task, on other rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from corefold.errors import InputError
from corefold.finetune.config import RunConfig, load_settings
from corefold.finetune.data import Columns
from corefold.finetune.folder import MANIFEST, SETTINGS, TASK
from corefold.finetune.methods import METHODS
from corefold.finetune.task import Task
from corefold.finetune.tasks.kind import settings_of_task

# An adapter, a head and a task have these already; another value could only be ignored.
FIXED = (
    "model", "revision", "task", "method", "rank", "width", "depth", "bases", "basis_lr_ratio", "init_scale",
    "target_modules", "exclude_modules", "pair", "head", "dtype", "load_in_4bit",
)  # fmt: skip
OPEN = (
    "text",
    "text_pair",
    "label",
    "separator",
    "max_length",
    "threshold",
)  # the run's where settings leave them open


def continued(config: RunConfig) -> RunConfig:
    """The settings with those of the run that they start from, or with the defaults where they start from none.

    Raises:
        InputError: no finished run there, or a setting that its adapter cannot take any more.
    """
    if config.from_run is None:
        return config.with_defaults()
    run = Path(config.from_run)
    _check_run(run)
    method = METHODS[load_settings(run / SETTINGS)["method"]]
    if method.keeps != "adapter" or not method.resumes:
        raise InputError(
            f"--from {run}: only an adapter of fixed ranks trains on; fold it into a model and use --model"
        )
    stored, default = load_settings(run / SETTINGS), RunConfig()
    changed = {
        name: getattr(config, name) for name in FIXED if getattr(config, name) != getattr(default, name)
    }
    check_fixed(run, changed)
    config = replace(config, **{name: stored[name] for name in FIXED if name in stored})
    return config.filled({name: stored.get(name) for name in OPEN}).with_defaults()


def check_fixed(run: Path, settings: Mapping[str, Any]) -> None:
    """Check that settings for going on from `run` are the run's, where its adapter, head or task fixes them.

    Raises:
        InputError: a setting that has another value.
    """
    _check_run(run)
    stored = load_settings(run / SETTINGS)
    flags = {each.name: each.metadata["flags"] for each in fields(RunConfig)}
    for name in FIXED:
        value = settings.get(name)
        if isinstance(value, str) and Path(value).exists():
            value = str(Path(value).absolute())
        if name in settings and value != stored.get(name):
            flag = (flags[name] or ("--" + name.replace("_", "-"),))[0]
            raise InputError(
                f"--from {run} keeps {flag} {stored.get(name)}, which its adapter was made for; got {settings[name]}"
            )


def _check_run(run: Path) -> None:
    for name in (SETTINGS, TASK, MANIFEST):
        if not (run / name).exists():
            raise InputError(f"--from {run}: not the folder of a finished corefold finetune (no {name})")


def task_of_run(config: RunConfig, columns: Columns, train: pd.DataFrame) -> Task:
    """The task of the run that the settings start from, with their columns.

    Raises:
        InputError: a class that the run's head does not have.
    """
    task = Task.load(Path(str(config.from_run)) / TASK)
    labels = [*dict.fromkeys(train[columns.label])] if task.classes and columns.label else []
    names = [name for label in labels for name in (label if isinstance(label, tuple) else (label,))]
    if missing := [name for name in names if name not in task.classes]:
        raise InputError(
            f"{config.train}: class {missing[0]!r} is none of those that {config.from_run} learned "
            f"({', '.join(task.classes)}); a head cannot grow, so train without --from"
        )
    own = settings_of_task(config, columns)
    names = ("columns", "separator", "max_length", "threshold")
    return replace(task, **{name: own[name] for name in names})
