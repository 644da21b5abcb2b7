"""What the scripts share: a result file that a killed run goes on with, the machine it says, and the figure."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import corefold
from corefold.report.plots import GREY
from corefold.report.svg import figure_svg

Cell = dict[str, Any]
AGREES, DIFFERS, PARTLY, NOT_RUN = "agrees", "differs", "in part", "not run"


class Result:
    """`result.json` of one folder: cells by name, written after each, and the claims drawn from them.

    A cell that is there is not run again. `paper.json` beside it holds what the paper or the authors' files say.
    """

    def __init__(self, path: Path, question: str) -> None:
        self.path, self.question = path, question
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.cells: dict[str, Cell] = found.get("cells", {})
        self.claims: list[Cell] = found.get("claims", [])

    def run(self, name: str, work: Callable[[], Cell], device: str = "cpu") -> Cell:
        """The cell of this name, from the file or by work."""
        if name not in self.cells:
            began = time.perf_counter()
            found = work()
            self.cells[name] = {
                **found,
                "seconds_in_all": time.perf_counter() - began,
                **circumstances(device),
            }
            self.write()
            print(f"{name}: {self.cells[name]['seconds_in_all']:.1f} s", flush=True)
        return self.cells[name]

    def write(self) -> None:
        """All of it at once, so that a kill leaves the old file or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        told = {"question": self.question, "claims": self.claims, "cells": self.cells}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(_short(told), indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def _short(value: Any) -> Any:
    """With six digits: files of curves stay small."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    return [_short(one) for one in value] if isinstance(value, list | tuple) else value


def claim(
    text: str, paper: str, ours: str | None, status: str, command: str, cells: list[Cell]
) -> dict[str, Any]:
    """One row of the README's table; without cells it was not run."""
    return {
        "claim": text,
        "paper": paper,
        "ours": ours if cells else None,
        "status": status if cells else NOT_RUN,
        "command": command,
        "seconds": sum(cell["seconds_in_all"] for cell in cells) if cells else None,
    }


def circumstances(device: str) -> dict[str, Any]:
    """Versions and machine."""
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
    }
    if torch.device(device).type == "cuda":
        machine |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    versions = {
        "corefold": corefold.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return {"machine": machine, "versions": versions}


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def paper(folder: Path) -> Mapping[str, Any]:
    """What was published, as it is written down in `paper.json`."""
    return json.loads((folder / "paper.json").read_text(encoding="utf-8"))


def draw(
    path: Path,
    rows: int,
    columns: int,
    fill: Callable[[list[Axes]], object],
    *,
    width: float = 4.6,
    height: float = 3.2,
) -> None:
    """A figure of several panels of that size in inches, the same bytes for the same numbers."""

    def panels(ax: Axes) -> None:
        figure = ax.figure
        assert isinstance(figure, Figure)  # noqa: S101 - for the type checker
        ax.remove()
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for one in axes:
            one.spines[["top", "right"]].set_visible(False)
            one.grid(color=GREY, alpha=0.25, linewidth=0.6)
            one.set_axisbelow(True)
        fill(axes)
        for one in axes:
            if one.get_legend_handles_labels()[0]:
                one.legend(frameon=False, fontsize=7)

    picture = figure_svg(panels, width=width * columns, height=height * rows)
    # On its own, a picture has no page to take its ink and ground from.
    picture = picture.replace("<svg ", '<svg style="background: white; color: #222" ', 1)
    path.write_text(picture + "\n", encoding="utf-8")
