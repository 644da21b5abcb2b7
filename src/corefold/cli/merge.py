"""`corefold merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corefold.cli.console import console

NAME = "merge"
HELP = """Fold an adapter into its base model: a plain transformers model, or, where the run pools tokens, one of
sentence-transformers and SetFit.

Example: `corefold merge out -o merged`
"""


def run(
    out: Annotated[Path, typer.Argument(help="Folder of a finished `corefold finetune`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")],
    base: Annotated[
        str | None, typer.Option(help="Place of the base model, if it has moved since the training.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Use the output folder although it is not empty.")
    ] = False,
) -> None:
    """The command."""
    from corefold.finetune.folder import TASK, check_apart, load_run
    from corefold.finetune.merging import merge
    from corefold.finetune.task import Task
    from corefold.tables.writing import check_folder

    check_apart(out, output, base)
    check_folder(output, overwrite)  # before the model loads, which takes longer
    lines: list[str] = []
    run = load_run(out, base=base, quantized=False)
    error = merge(run, output, overwrite=overwrite, tell=lines.append)
    if Task.load(out / TASK).load_in_4bit:
        lines.append(
            "training saw the base model in 4 bits, and the merged weights have all of theirs: answers differ a little"
        )
    console.print(f"merged model in {output}")
    for line in lines:
        console.print(line)
    if error is not None:
        console.print(f"largest error of a weight, from rounding: {error:.1e}")
