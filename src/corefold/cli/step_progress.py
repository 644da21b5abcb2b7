"""A progress bar for the steps of a matrix completion."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from corefold.completion.walks import StepRecord


@contextmanager
def step_progress() -> Iterator[Callable[[StepRecord], None]]:
    """A function to call with each step; it moves a bar on standard error if that is a terminal.

    The bar has no end, because the number of steps is not known before the last one.
    """
    columns = (TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task, steps = bar.add_task("starting", total=None), 0

        def advance(record: StepRecord) -> None:
            nonlocal steps
            steps += 1
            held_out = "" if math.isnan(record.held_out) else f", held out {record.held_out:.4g}"
            text = f"{record.stage}, step {steps}: rank {record.rank}, error {record.error:.4g}{held_out}"
            bar.update(task, description=text)

        yield advance
