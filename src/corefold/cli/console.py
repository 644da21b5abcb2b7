"""Printing: tables go to standard output, notes and errors to standard error."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

# Paths and names are printed unchanged: without markup, and without turning ":train" into a picture of a train.
console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
_errors = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def be_silent() -> None:
    """Print nothing from now on: another process of the same command prints."""
    console.quiet = _errors.quiet = True


def say_error(message: str) -> None:
    """Print the message on one line, which is never wrapped."""
    _errors.print("corefold: error: " + " ".join(message.split()), style="red")


def say_note(message: str) -> None:
    """Print a note on one line: a guess, and the option that changes it."""
    _errors.print("note: " + " ".join(message.split()))


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table whose first column is text and whose others are numbers."""
    table = Table(
        title=title, title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index > 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def number(value: float | int | None) -> str:
    """A figure with four significant digits; counts with thousands separators."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
