"""Files of measurements: JSON that a killed run continues, with the machine and versions of each measurement.

A file holds measurements ("cells") by name. Every cell says on which machine and with which versions it was measured;
since most cells of a file share these, the file lists each such record once, under "circumstances", and a cell holds
the record's place in that list. In memory each cell has its own "machine" and "versions" again.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import corefold
from corefold.tables.atomic import write_text

Cell = dict[str, Any]
SHARED = ("machine", "versions")
PACKAGES = ("peft", "transformers")  # whose versions matter beside those of torch and corefold


class ResultFile:
    """The file at `path`: what it is about, and its cells by name."""

    def __init__(self, path: Path, **about: Any) -> None:
        self.path = path
        content = read(path) if path.exists() else {"cells": {}}
        self.cells: dict[str, Cell] = content.pop("cells")
        self.about: dict[str, Any] = {**content, **about}

    def put(self, name: str, cell: Cell) -> None:
        """Keep a cell, in the place of an earlier one of this name, and write the file."""
        self.cells[name] = cell
        self.write()

    def write(self) -> None:
        """Write the whole file, so that a kill leaves the old file or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(_packed({**self.about, "cells": self.cells}), indent=1) + "\n")


def cell_name(identity: Mapping[str, Any]) -> str:
    """The name of a cell that a few of its fields identify."""
    return ", ".join(f"{key}={value}" for key, value in identity.items())


def read(path: Path) -> dict[str, Any]:
    """The content of a result file, each cell with its own machine and versions."""
    content = json.loads(path.read_text(encoding="utf-8"))
    records = content.pop("circumstances", [])
    for cell in content["cells"].values():
        cell |= records[cell.pop("circumstances")]
    return content


def _packed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as the file has it: each record of machine and versions once, in the order of first use."""
    records: list[Cell] = []
    cells = {}
    for name, cell in content["cells"].items():
        record = {key: cell[key] for key in SHARED}
        if record not in records:
            records.append(record)
        rest = {key: value for key, value in cell.items() if key not in SHARED}
        cells[name] = {**rest, "circumstances": records.index(record)}
    return {**content, "circumstances": records, "cells": cells}


def circumstances(device: str) -> Cell:
    """The machine and the versions of a measurement."""
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "device": device,
    }
    if torch.device(device).type == "cuda":
        machine |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    versions = {
        "corefold": corefold.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: version(package) for package in PACKAGES},
    }
    return {"machine": machine, "versions": versions}


def version(package: str) -> str | None:
    """The installed version, read without importing the package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
