"""`corefold evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corefold.cli.console import number, show_table

NAME = "evaluate"
HELP = """Score a fine-tuned model on a labelled table.

Example: `corefold evaluate out test.csv --json scores.json`
"""


def run(
    out: Annotated[Path, typer.Argument(help="Folder of a finished `corefold finetune`.")],
    table: Annotated[
        str, typer.Argument(help="A csv, tsv, jsonl or parquet file, or a hub data set NAME[:CONFIG]:SPLIT.")
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 32,
    json: Annotated[
        Path | None, typer.Option("--json", help="Also write the scores to this .json file.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Place of the base model, if it has moved since the training.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the .json file.")] = False,
) -> None:
    """The command."""
    from corefold.finetune.folder import load_run
    from corefold.finetune.prediction import evaluate
    from corefold.tables.atomic import write_json
    from corefold.tables.writing import check_file

    if json is not None:
        check_file(json, overwrite, (".json",))
    scores = evaluate(load_run(out, base=base), table, batch_size=batch_size)
    if json is not None:
        write_json(json, scores)
    show_table(list(scores), [[number(value) for value in scores.values()]])
