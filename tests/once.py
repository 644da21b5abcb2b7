"""Folders that the parallel workers of a test run make once and share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from filelock import FileLock


def filled(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder` with what `fill` writes into it, by the first process that asks; the others wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with TemporaryDirectory(dir=folder.parent) as unfinished:
                work = Path(unfinished, folder.name)
                work.mkdir()
                fill(work)
                work.rename(folder)
    return folder


def folder_of_run(factory: pytest.TempPathFactory, name: str) -> Path:
    """A path that is the same for all workers of this test run, and for no other run."""
    base = factory.getbasetemp()  # a folder of its own for each worker, side by side
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
