"""Floor 2: fine-tune, predict and evaluate from tables, on transformers' Trainer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from corefold.errors import InputError
from corefold.finetune.config import RunConfig, load_settings

if TYPE_CHECKING:
    from corefold.finetune.finetuning import Result, finetune
    from corefold.finetune.folder import Run, load_run
    from corefold.finetune.merging import merge
    from corefold.finetune.prediction import evaluate, predict
    from corefold.finetune.task import Task

_LATER = {
    "Result": "finetuning",
    "Run": "folder",
    "Task": "task",
    "evaluate": "prediction",
    "finetune": "finetuning",
    "load_run": "folder",
    "merge": "merging",
    "predict": "prediction",
}
__all__ = [
    "InputError",
    "Result",
    "Run",
    "RunConfig",
    "Task",
    "evaluate",
    "finetune",
    "load_run",
    "load_settings",
    "merge",
    "predict",
]


def __getattr__(name: str) -> Any:
    # Settings alone load in no time; what runs them brings transformers.
    if name not in _LATER:
        raise AttributeError(f"module 'corefold.finetune' has no attribute {name!r}")
    return getattr(import_module(f"corefold.finetune.{_LATER[name]}"), name)
