"""Measurements in processes of their own, whose memory nothing else has used before."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


def module_command(module: str) -> list[str]:
    """The command that runs a module in the repository's root."""
    return [sys.executable, "-m", module]


def report(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON in the last line that a command prints."""
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    return json.loads(done.stdout.splitlines()[-1])


def peak() -> int:
    """The most bytes of memory that this process has held since it began or since `reset`.

    On Linux it is not taken from ru_maxrss, which begins with the peak of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def now() -> int:
    """The bytes of memory that this process holds."""
    return psutil.Process().memory_info().rss


def reset() -> None:
    """Start the peak anew where Linux allows it; elsewhere `peak` may return an earlier one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
