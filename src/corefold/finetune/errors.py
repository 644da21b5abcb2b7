"""The error that means: what you gave cannot be used."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used. Its one line says what came, what was expected and what to do.

    The command line prints the line and ends with exit code 2.
    """
