"""A progress bar for a fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

from corefold.completion.walks import StepRecord


@contextmanager
def progress(visible: bool) -> Iterator[Callable[[StepRecord], None]]:
    """A function that moves the bar at each record; the bar has no end, because the number of steps is not known."""
    if not visible:
        yield lambda record: None
        return
    with tqdm(desc="completing", unit="step") as bar:

        def advance(record: StepRecord) -> None:
            bar.update()
            bar.set_description(record.stage, refresh=False)
            bar.set_postfix(rank=record.rank, error=f"{record.error:.3g}", held_out=f"{record.held_out:.3g}")

        yield advance
