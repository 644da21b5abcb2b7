"""`corefold evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from corefold.cli.console import console, say_note, show_table
from corefold.cli.options import DELIMITER_HELP, ENCODING_HELP
from corefold.cli.score_tables import (
    MOST_CLASSES_IN_TEXT,
    class_table,
    confusion_table,
    interval_notes,
    score_table,
)

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
    encoding: Annotated[str | None, typer.Option(help=ENCODING_HELP)] = None,
    delimiter: Annotated[str | None, typer.Option(help=DELIMITER_HELP)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the .json file.")] = False,
) -> None:
    """The command."""
    from dataclasses import asdict

    from corefold.finetune import load_settings
    from corefold.finetune.folder import SETTINGS, load_run
    from corefold.finetune.prediction import judge_table
    from corefold.tables.atomic import write_json
    from corefold.tables.writing import check_file

    if json is not None:
        check_file(json, overwrite, (".json",))
    loaded, settings = load_run(out, base=base), out / SETTINGS
    # With the seed of the run, the same rows get the same intervals as in its metrics.json.
    seed = load_settings(settings).get("seed", 0) if settings.exists() else 0
    notes: list[str] = []
    reading: dict[str, Any] = {"encoding": encoding, "delimiter": delimiter, "notes": notes}
    found = judge_table(loaded, table, batch_size=batch_size, seed=seed, **reading)
    for line in notes:
        say_note(line)
    if json is not None:
        parts = asdict(found)
        write_json(json, {"rows": parts.pop("rows"), **parts.pop("scores"), **parts})
    header, rows = score_table(found.scores, found.intervals)
    show_table([f"{found.rows:,} rows", *header[1:]], rows)
    for line in interval_notes({"intervals": found.intervals}):
        console.print(line)
    if found.report and len(found.report["classes"]) <= MOST_CLASSES_IN_TEXT:
        for shown in (class_table(found.report), confusion_table(found.report)):
            console.print()
            show_table(*shown)
