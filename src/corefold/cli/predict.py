"""`corefold predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corefold.cli.console import console, say_note
from corefold.cli.options import DELIMITER_HELP, ENCODING_HELP

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
    encoding: Annotated[str | None, typer.Option(help=ENCODING_HELP)] = None,
    delimiter: Annotated[str | None, typer.Option(help=DELIMITER_HELP)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
) -> None:
    """The command."""
    from corefold.finetune.folder import load_run
    from corefold.finetune.prediction import predict_chunks
    from corefold.tables.chunks import read_chunks
    from corefold.tables.table_writer import TableWriter
    from corefold.tables.writing import TABLE_SUFFIXES, check_file

    check_file(output, overwrite, TABLE_SUFFIXES)
    notes: list[str] = []
    chunks = read_chunks(table, encoding=encoding, delimiter=delimiter, notes=notes)
    for line in notes:
        say_note(line)
    for chunk in chunks:  # A cell that the output cannot hold should show before hours of work, not after.
        TableWriter(output).check(chunk)
    run = load_run(out, base=base)
    options = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    with TableWriter(output) as writer:
        for predicted in predict_chunks(run, chunks, table, note=say_note, **options):
            writer.write(predicted)
    console.print(f"{writer.rows:,} rows in {output}")
