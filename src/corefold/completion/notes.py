"""Warnings as notes that a program shows in its own way."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def warnings_as_notes() -> Iterator[list[str]]:
    """A list that holds the warnings of the block, each once, when the block ends."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield notes
    notes.extend(dict.fromkeys(str(warning.message) for warning in caught))
