"""The folder of a comparison: its settings, and a line for each finished cell."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from corefold.compare.grid import Key
from corefold.errors import InputError
from corefold.finetune.folder import read_json
from corefold.tables.atomic import write_json
from corefold.tables.writing import check_folder

SETTINGS, CELLS = "settings.json", "cells.jsonl"


def open_store(
    out: Path, settings: dict[str, Any], check: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Make `out` the folder of a comparison with these settings, or extend the comparison in it; return its settings.

    Args:
        out: the folder.
        settings: the settings that all cells share, and under "tries" the settings that each method chooses from.
        check: called with the settings of the folder before anything is written.

    Raises:
        InputError: the folder holds something else, or cells with other settings; it is left unchanged.
    """
    path = out / SETTINGS
    if not path.exists():
        check_folder(out, overwrite=False)
        out.mkdir(parents=True, exist_ok=True)
        merged = settings
    else:
        stored = _stored(path)
        for name, value in settings.items():
            if name != "tries" and name in stored and stored[name] != value:
                raise InputError(
                    f"{out} holds a comparison with {name} {_shown(stored[name])}, not {_shown(value)}; "
                    "choose another -o"
                )
        merged = {**stored, **settings, "tries": _merged(out, stored["tries"], settings["tries"])}
        if check is not None:
            check(merged)
    write_json(path, merged)
    _end_last_line(out / CELLS)
    return merged


def _stored(path: Path) -> dict[str, Any]:
    stored = read_json(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("tries"), dict):
        raise InputError(f"{path} was not written by `corefold compare`; choose another -o")
    return stored


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)


def _merged(out: Path, stored: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    for name, tries in new.items():
        # A method with more tries than another would be compared unfairly.
        for other, before in stored.items():
            if len(before) != len(tries) or (other == name and before != tries):
                raise InputError(
                    f"{out} holds cells of {other} chosen from {before or 'nothing'}, and {name} would choose from "
                    f"{tries or 'nothing'}. Every method needs the same number of tries, and {other} those that it "
                    "had; or choose another -o"
                )
    return {**stored, **new}


def append(out: Path, record: Mapping[str, Any]) -> None:
    """Add a cell by a single write at the end of the file, so that lines of several processes do not mix.

    Raises:
        OSError: the line was not written whole.
    """
    path = out / CELLS
    line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def _end_last_line(path: Path) -> None:
    """End a line that was cut by a power failure or a full disk, so that the next cell begins a new line."""
    if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("ab", buffering=0) as file:
            file.write(b"\n")


def read_cells(out: Path) -> dict[Key, dict[str, Any]]:
    """The finished cells by their keys; of equal keys the last counts, and a line that was cut is ignored."""
    path = out / CELLS
    found: dict[Key, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
                found[Key.of(record)] = record
            except (ValueError, KeyError, TypeError):
                continue
    return found
