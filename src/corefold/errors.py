"""The error that every command reports in one line: the user's input cannot be used."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used. Its one line says what came, what was expected and what to do.

    The command line prints the line and ends with exit code 2.
    """
