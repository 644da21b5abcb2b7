"""Atomic writes: whoever reads the file sees the old content or the new one, never half of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new path to write to, whose file takes the place of `path` when the block ends.

    An error in the block leaves `path` as it was and nothing beside it. The new path has the name of `path`, because
    some writers choose a format by the ending. A file that is replaced hands on its permissions, and a symbolic link
    keeps pointing to its file.
    """
    try:
        target = Path(path).resolve()
    except RuntimeError as error:  # before Python 3.13, for a symbolic link to itself
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    if not target.parent.is_dir():  # Otherwise the error would name the temporary folder.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    # A file of mkstemp would be readable by its owner alone; one in a folder of its own gets the usual permissions.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".corefold-") as folder:
        new = Path(folder, Path(path).name)
        yield new
        with new.open("rb+") as file:
            os.fsync(file.fileno())  # Without it a power cut could leave an empty file.
        if target.exists():
            shutil.copymode(target, new)
        new.replace(target)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, with its line ends as they stand."""
    with atomic_write(path) as new:
        new.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
