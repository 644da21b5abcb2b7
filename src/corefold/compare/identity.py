"""What a cell's score hangs on besides its settings: data, model, versions, machine."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from corefold.finetune import RunConfig
from corefold.finetune.problem import Tables
from corefold.finetune.task import checkpoint_file

# The cell's own, where the data lie, and what a run that is thrown away does not use.
NOT_SHARED = (
    "method", "rank", "samples", "seed", "model", "train", "eval", "tolerance", "checkpoint_every", "tracker",
)  # fmt: skip
END = 2**20  # bytes from each end of a file of weights that its digest looks at
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "config.json")


def shared_settings(config: RunConfig, tables: Tables) -> dict[str, Any]:
    """What all cells of one comparison have in common: settings, and digests of data and model.

    A file that was moved is the same file, so digests stand in the place of paths.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_SHARED}
    return {
        "model": model_digest(config.model),
        "train": table_digest(tables.train),
        "eval": None if tables.held_out is None else table_digest(tables.held_out),
        **settings,
    }


def table_digest(table: pd.DataFrame) -> str:
    """A digest of the rows, in their order, and of nothing else that a file holds."""
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    return hashlib.sha256(rows.tobytes()).hexdigest()[:16]


def model_digest(model: str) -> str:
    """The commit of a checkpoint from the hub; of others a digest of configuration, sizes and ends of the weights."""
    config = checkpoint_file(model, "config.json")
    folder = Path(config).parent if config else Path(model).parent
    if folder.parent.name == "snapshots":
        return folder.name
    files = [Path(model)] if config is None else sorted(p for kind in WEIGHTS for p in folder.glob(kind))
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(END))
            file.seek(max(0, size - END))
            digest.update(file.read(END))
    return digest.hexdigest()[:16]


def machine() -> dict[str, Any]:
    """Where a cell ran, since its seconds depend on it."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
