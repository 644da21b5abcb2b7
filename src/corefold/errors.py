"""The error that every command reports in one line: the user's input cannot be used."""

from __future__ import annotations

import re

_SHAPES = re.compile(
    r"size mismatch for (?P<name>\S+): copying a param with shape (?:torch\.Size\()?(?P<saved>[^)]*?)\)? from "
    r"checkpoint, the shape in current model is (?:torch\.Size\()?(?P<here>[^)]*?)\)?\.?$",
    re.MULTILINE,
)


class InputError(ValueError):
    """Input that cannot be used. Its one line says what came, what was expected and what to do.

    The command line prints the line and ends with exit code 2.
    """


def reason(error: BaseException) -> str:
    r"""The one line of another library's error that says most: its first, or the first tensor that does not fit.

    >>> reason(ValueError("no such layer\nhere is a list of all layers"))
    'no such layer'
    """
    text = str(error).strip()
    if shapes := _SHAPES.search(text):
        return f"{shapes['name']} has shape {shapes['saved']} in the file and {shapes['here']} in the model"
    return (text.splitlines() or [type(error).__name__])[0]
