"""The experiment behind a group of claims: its result file, which a killed run continues, and its rows and figure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.shared.results import Cell, ResultFile, circumstances

Cells = Mapping[str, Cell]
AGREES, DIFFERS, PARTLY, NOT_RUN = "agrees", "differs", "in part", "not run"
DIGITS = 6  # significant digits of every number, so that files of curves stay small


class Experiment(ResultFile):
    """`result.json` of one folder: cells by name, and the claims drawn from them.

    A cell that the file holds is not run again.

    Args:
        folder: of result.json and figure.svg.
        question: that the claims answer.
    """

    def __init__(self, folder: Path, question: str) -> None:
        super().__init__(folder / "result.json", question=question)
        self.folder = folder

    def run(self, name: str, work: Callable[[], Cell], device: str = "cpu") -> Cell:
        """The cell of this name, from the file or from `work`."""
        if name not in self.cells:
            began = time.perf_counter()
            cell = work()
            cell["seconds_in_all"] = time.perf_counter() - began
            self.put(name, rounded({**cell, **circumstances(device)}))
            print(f"{name}: {self.cells[name]['seconds_in_all']:.1f} s", flush=True)
        return self.cells[name]

    def conclude(
        self, claims: Callable[[Cells], list[Cell]], figure: Callable[[Cells, Path], object]
    ) -> None:
        """Write the claims and the figure that the cells give."""
        self.about["claims"] = rounded(claims(self.cells))
        self.write()
        figure(self.cells, self.folder / "figure.svg")


def rounded(value: Any) -> Any:
    """The value with every number in it rounded to DIGITS significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def claim(
    text: str, published: str, ours: str | None, status: str, command: str, cells: Iterable[Cell]
) -> Cell:
    """One row of the README's table; a claim without cells was not run."""
    cells = [*cells]
    return {
        "claim": text,
        "paper": published,
        "ours": ours if cells else None,
        "status": status if cells else NOT_RUN,
        "command": command,
        "seconds": sum(cell["seconds_in_all"] for cell in cells) if cells else None,
    }


def not_run(text: str, published: str, command: str) -> Cell:
    """The row of a claim that was not run."""
    return claim(text, published, None, NOT_RUN, command, [])


def paper(module: str) -> Mapping[str, str]:
    """The published figures in `paper.json`, which lies beside a module's file."""
    return json.loads(Path(module).with_name("paper.json").read_text(encoding="utf-8"))
