"""`corefold predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corefold.cli.console import console

NAME = "predict"
HELP = """Predict for the rows of a table with a fine-tuned model.

Example: `corefold predict out new.csv -o predicted.csv`
"""


def run(
    out: Annotated[Path, typer.Argument(help="Folder of a finished `corefold finetune`.")],
    table: Annotated[
        str, typer.Argument(help="A csv, tsv, jsonl or parquet file, or a hub data set NAME[:CONFIG]:SPLIT.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File for the predictions: .csv, .tsv, .jsonl, .json, .parquet or .xlsx (or .csv.gz and the like).",
        ),
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 32,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest generated text, in tokens (causal-lm, seq2seq).")
    ] = 64,
    base: Annotated[
        str | None, typer.Option(help="Place of the base model, if it has moved since the training.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
) -> None:
    """The command."""
    from corefold.finetune.folder import load_run
    from corefold.finetune.prediction import predict
    from corefold.tables.writing import TABLE_SUFFIXES, check_file, write_table

    check_file(output, overwrite, TABLE_SUFFIXES)
    predicted = predict(load_run(out, base=base), table, batch_size=batch_size, max_new_tokens=max_new_tokens)
    write_table(predicted, output)
    console.print(f"{len(predicted):,} rows in {output}")
