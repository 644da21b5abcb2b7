"""Everything that a score depends on: data, model, machine, and settings, those that defaults decide included."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from corefold.finetune import RunConfig
from corefold.finetune.checkpoint import checkpoint_file
from corefold.finetune.method import Decided
from corefold.finetune.run_data import SourceTables
from corefold.finetune.task import Task

# Settings that each cell has for itself, paths, and settings of runs that are kept.
NOT_SHARED = (
    "method", "rank", "samples", "seed", "model", "train", "eval", "from_run", "tolerance", "checkpoint_every",
    "tracker", "folds", "keep", "patience",
)  # fmt: skip
DIGESTED_BYTES = 2**20  # from each end of a file of weights
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "config.json")


def shared_settings(config: RunConfig, tables: SourceTables) -> dict[str, Any]:
    """The settings that all cells of one comparison share, with digests in the place of paths.

    So a comparison survives a moved file, and is refused if the content of a file has changed.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_SHARED}
    return {
        "model": model_digest(config.model, config.revision),
        **tables.digests(),
        **settings,
        **decisions_of_task(tables.task),
    }


def decisions_of_task(task: Task) -> dict[str, Any]:
    """What data and model decided for every cell, beside the settings as the user gave them."""
    decided = {
        "task": task.kind,
        "head": task.head,
        "pair": task.pair,
        "pooling": task.pooling,
        **asdict(task.columns),
    }
    return {f"decided {name}": value for name, value in decided.items()}


def recorded(settings: Decided[Any]) -> dict[str, Any]:
    """The settings of a cell once they are decided, as its record holds them."""
    return {
        "lr": settings.lr if settings.method.trains else None,
        "weight_decay": settings.weight_decay,
        "head_lr": settings.head_lr,
        "steps": settings.steps,
        "objective": settings.objective,
        **(asdict(settings.own) if is_dataclass(settings.own) else {}),  # type: ignore[call-overload]
    }


def model_digest(model: str, revision: str | None = None) -> str:
    """The commit of a checkpoint from the hub; of others a digest of configuration, sizes and ends of the weights."""
    config = checkpoint_file(model, "config.json", revision)
    folder = Path(config).parent if config else Path(model).parent
    if folder.parent.name == "snapshots":
        return folder.name
    files = [Path(model)] if config is None else sorted(p for kind in WEIGHTS for p in folder.glob(kind))
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(DIGESTED_BYTES))
            file.seek(max(0, size - DIGESTED_BYTES))
            digest.update(file.read(DIGESTED_BYTES))
    return digest.hexdigest()[:16]


def machine() -> dict[str, Any]:
    """The machine, on which the seconds of a cell depend."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
