"""A progress bar for a fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

from corefold.completion.search import Record


@contextmanager
def progress(shown: bool) -> Iterator[Callable[[Record], None]]:
    """What to call with each record; it moves the bar if that is to be shown. Nobody knows where it will end."""
    if not shown:
        yield lambda record: None
        return
    with tqdm(desc="completing", unit="step") as bar:

        def advance(record: Record) -> None:
            bar.update()
            bar.set_description(record.stage, refresh=False)
            bar.set_postfix(rank=record.rank, error=f"{record.error:.3g}", held_out=f"{record.held_out:.3g}")

        yield advance
