"""Settings that defaults decide are a part of what a cell is: a later version may not mix in cells with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from corefold.compare.grid import Key, Try
from corefold.compare.identity import recorded
from corefold.errors import InputError
from corefold.finetune import RunConfig
from corefold.finetune.method import decide
from corefold.finetune.methods import METHODS
from corefold.finetune.task import Task


def check_decisions(
    out: Path,
    config: RunConfig,
    task: Task,
    tries: Mapping[str, Sequence[Try]],
    cells: Mapping[Key, Mapping[str, Any]],
) -> None:
    """Refuse to add to cells whose settings would be decided otherwise now.

    Args:
        out: the folder of the comparison.
        config: the settings of the cells to come.
        task: their task.
        tries: the settings that each method chose from.
        cells: the cells in the folder.

    Raises:
        InputError: a cell was trained with another value than it would be now; the line names both.
    """
    for key, cell in cells.items():
        if cell["error"] is not None or key.method not in METHODS:
            continue
        chosen = {} if cell["chosen"] is None else tries[key.method][cell["chosen"]]
        own = replace(config, rank=key.rank or config.rank, **chosen)
        now = recorded(decide(own, task, cell["rows"]["train"], METHODS[key.method]))
        for name, value in cell["settings"].items():
            if name in now and now[name] != value:
                raise InputError(
                    f"{out} holds the cell {key} with {name} {value}, and this version decides {name} {now[name]}; "
                    f"choose another -o, or continue with corefold {cell['versions']['corefold']}"
                )
