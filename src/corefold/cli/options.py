"""Options of commands that take the settings of `RunConfig`; they are made of its fields."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from corefold.finetune import RunConfig

HELP = {each.name: each.metadata["help"] for each in fields(RunConfig)}
ENCODING_HELP, DELIMITER_HELP = HELP["encoding"], HELP["delimiter"]
REQUIRED = inspect.Parameter.empty  # the default of an option that must be given


def with_settings(
    command: Any, own: Mapping[str, tuple[Any, Any, Any]], leave_out: Collection[str] = ()
) -> None:
    """Give `command` its own options, and one for each field of RunConfig.

    Args:
        command: a function that takes keyword arguments.
        own: for each option that only this command has, the type, typer's option and the default.
        leave_out: fields of RunConfig for which the command has no option.
    """
    hints = get_type_hints(RunConfig)
    options = {name: (Annotated[kind, option], default) for name, (kind, option, default) in own.items()}
    for each in fields(RunConfig):
        if each.name in leave_out:
            continue
        flags = each.metadata["flags"] or ("--" + each.name.replace("_", "-"),)
        shown = "" if each.default in (None, "") else f" [default: {each.default!r}]".replace("'", "")
        option = typer.Option(*flags, help=each.metadata["help"] + shown, show_default=False)
        options[each.name] = (Annotated[hints[each.name] | None, option], None)
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, kind, default=default, annotation=hint)
        for name, (hint, default) in options.items()
    ]
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {name: hint for name, (hint, _) in options.items()}
