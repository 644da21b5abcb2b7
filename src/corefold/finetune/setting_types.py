"""The types of settings, as annotations, and values that have them or can be converted."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from corefold.errors import InputError


def flag(name: str) -> str:
    """The option of a setting."""
    return "--" + name.replace("_", "-")


def checked(name: str, value: Any, hint: Any) -> Any:
    """`value` if it has the annotated type; whole floats and numbers in YAML strings ('1e-3') are converted."""
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return None
    wanted: Any = next(each for each in allowed if each is not type(None))
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            raise InputError(f"{flag(name)} must be one of {', '.join(get_args(wanted))}; got {value!r}")
        return value
    if wanted is bool:
        if not isinstance(value, bool):
            raise InputError(f"{flag(name)} must be true or false; got {value!r}")
        return value
    try:
        converted = wanted(value)
        if value is None or isinstance(value, bool) or (wanted is int and converted != float(str(value))):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{flag(name)} must be of type {wanted.__name__}; got {value!r}") from error
    return converted
