"""`corefold export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corefold.cli.console import console

NAME = "export"
HELP = """Write a Deep LoRA adapter as a plain LoRA, which stock PEFT and LoRA servers load.

Example: `corefold export out -o out-lora --tolerance 0.05`
"""


def run(
    out: Annotated[Path, typer.Argument(help="Folder of a Deep LoRA adapter.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")],
    tolerance: Annotated[
        float,
        typer.Option(
            help="Largest relative error of a layer's update. Directions that it does not need are dropped."
        ),
    ] = 0.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Use the output folder although it is not empty.")
    ] = False,
) -> None:
    """The command."""
    from corefold.adapters import DeepLoraConfig
    from corefold.cli.run_report import kind_of_adapter
    from corefold.errors import InputError
    from corefold.finetune.folder import check_adapter, check_apart
    from corefold.finetune.portable.adapter import export
    from corefold.tables.writing import check_folder

    if not 0 <= tolerance < 1:
        raise InputError(f"--tolerance is a relative error, 0 <= tolerance < 1; got {tolerance}")
    config, _ = check_adapter(out)
    if not isinstance(config, DeepLoraConfig):
        kind = kind_of_adapter(config)
        advice = (
            "a LoRA needs no export"
            if kind == "LORA"
            else f"no plain LoRA equals it, so fold it into its base model: corefold merge {out} -o MERGED"
        )
        raise InputError(f"{out} holds a {kind} adapter, not Deep LoRA; {advice}")
    check_apart(out, output)
    check_folder(output, overwrite)
    lines: list[str] = []
    try:
        console.print(str(export(out, output, tolerance, lines.append)))
    except ValueError as error:
        raise InputError(f"{out}: {error}") from error
    for line in lines:
        console.print(line)
