"""The folder of a comparison: its settings, and a line for each finished cell."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corefold.compare.grid import Key
from corefold.errors import InputError
from corefold.tables.atomic import write_json
from corefold.tables.writing import check_folder

SETTINGS, CELLS = "settings.json", "cells.jsonl"


def open_store(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Make `out` the folder of a comparison with these settings, or go on in it if it is; return what it now holds.

    Args:
        out: the folder.
        settings: what all cells share, and under "tries" what each method chooses from.

    Raises:
        InputError: the folder holds something else, or cells with other settings. It is as it was then.
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
                    f"{out} holds a comparison with {name} {_said(stored[name])}, not {_said(value)}; "
                    "choose another -o"
                )
        merged = {**stored, **settings, "tries": _merged(out, stored["tries"], settings["tries"])}
    write_json(path, merged)
    _end_last_line(out / CELLS)
    return merged


def _stored(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(stored["tries"], dict):
            return stored
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path} is not what `corefold compare` writes; choose another -o")


def _said(value: object) -> str:
    return "not set" if value is None else str(value)


def _merged(out: Path, stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    for name, tries in given.items():
        # Another method with more tries would be compared as if it had as many.
        for other, before in stored.items():
            if len(before) != len(tries) or (other == name and before != tries):
                raise InputError(
                    f"{out} holds cells of {other} chosen from {before or 'nothing'}; {name} would choose from "
                    f"{tries or 'nothing'}. Give it as many, and {other} the same, or choose another -o"
                )
    return {**stored, **given}


def append(out: Path, record: Mapping[str, Any]) -> None:
    """Add a cell: one write at the end of the file, so that processes do not mix and a kill leaves no cell half.

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
    """End a line that a power cut or a full disk left without its end, so that the next cell gets its own."""
    if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("ab", buffering=0) as file:
            file.write(b"\n")


def read_cells(out: Path) -> dict[Key, dict[str, Any]]:
    """The finished cells, the last of those with equal keys; a line that was cut counts as none."""
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
