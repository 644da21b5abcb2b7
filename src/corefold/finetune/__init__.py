"""Floor 2: fine-tune, predict and evaluate from tables, on transformers' Trainer."""

from corefold.finetune.config import RunConfig, load_settings
from corefold.finetune.errors import InputError
from corefold.finetune.folder import Run, load_run
from corefold.finetune.task import Task
from corefold.finetune.training import Result, finetune

__all__ = ["InputError", "Result", "Run", "RunConfig", "Task", "finetune", "load_run", "load_settings"]
