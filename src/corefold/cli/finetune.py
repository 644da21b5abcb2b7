"""`corefold finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from corefold.cli.console import console, number, say_note, show_table
from corefold.cli.options import REQUIRED, with_settings
from corefold.cli.score_tables import (
    MOST_CLASSES_IN_TEXT,
    class_table,
    fold_table,
    interval_notes,
    stage_table,
)
from corefold.errors import InputError
from corefold.finetune import RunConfig, load_settings

NAME = "finetune"
HELP = """Fine-tune a model on a table of texts.

Example: `corefold finetune --model sentence-transformers/all-MiniLM-L6-v2 --train train.csv --eval eval.csv
--text review --label stars -o out`

OUT holds the adapter, the same adapter as plain LoRA for stock PEFT (`lora/`), the tokenizer, `metrics.json`,
`report.html`, and `config.yaml`, with which `--config` repeats the run.
"""

OWN = {
    "output": (Path, typer.Option("--output", "-o", help="Output folder."), REQUIRED),
    "config": (
        Path | None,
        typer.Option("--config", help="YAML file of settings; options on the command line win."),
        None,
    ),
    "resume": (
        bool,
        typer.Option("--resume", help="Continue the stopped run in OUT, with its settings."),
        False,
    ),
    "push_to_hub": (
        str | None,
        typer.Option("--push-to-hub", help="Upload OUT to this repository of the hub, private if it is new."),
        None,
    ),
    "overwrite": (bool, typer.Option("--overwrite", help="Use OUT although it is not empty."), False),
}


def run(
    output: Path,
    config: Path | None = None,
    resume: bool = False,
    push_to_hub: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """The command; its options beside these five are the fields of RunConfig."""
    settings = {name: value for name, value in options.items() if value is not None}
    if resume:
        settings = _settings_of(output, settings, config)
    elif config is not None:
        settings = {**load_settings(config), **settings}
    from corefold.finetune.processes import is_first

    chosen = RunConfig(**settings)
    if chosen.from_run is not None and not resume:
        from corefold.finetune.continuing import check_fixed

        # A setting that was given counts even where it equals a default, which `chosen` alone does not tell.
        given = [name for name, value in settings.items() if value is not None]
        check_fixed(Path(chosen.from_run), {name: getattr(chosen, name) for name in given})
    if resume and (output / "metrics.json").exists():
        console.print(f"the run in {output} is finished")
    else:
        from corefold.finetune import finetune

        finetune(chosen, output, overwrite=overwrite, resume=resume, note=say_note)
    if not is_first():
        return
    show(output)
    if push_to_hub is not None:
        from corefold.finetune.hub import push_to_hub as upload

        console.print(f"uploaded: {upload(output, push_to_hub)}")


def _settings_of(out: Path, options: dict[str, Any], config: Path | None) -> dict[str, Any]:
    """The settings of the run in `out`; options and a file of settings may repeat them, not change them."""
    if not (out / "config.yaml").exists():
        raise InputError(f"{out} holds no run to resume (no config.yaml)")
    settings = load_settings(out / "config.yaml")
    wanted = {**(load_settings(config) if config else {}), **options}
    checked = RunConfig(**{**settings, **wanted})
    for name in wanted:
        value = getattr(checked, name)
        stored = settings.get(name)
        same = stored == value or (isinstance(value, str) and str(Path(value).absolute()) == stored)
        if not same and value is not None:
            raise InputError(
                f"--resume keeps the settings of {out}/config.yaml, where {name} is {stored!r}, not {value!r}"
            )
    return settings


def show(out: Path) -> None:
    """Write report.html from the files of a finished run, and print its scores."""
    from corefold.cli.run_report import run_notes, write_report
    from corefold.finetune.evaluation.verdict import verdict
    from corefold.finetune.folder import METRICS, read_json

    metrics = read_json(out / METRICS)
    if "folds" in metrics:
        show_table(*fold_table(metrics["folds"]))
        console.print()
    show_table(*stage_table(metrics))
    if metrics.get("report") and len(metrics["report"]["classes"]) <= MOST_CLASSES_IN_TEXT:
        console.print()
        show_table(*class_table(metrics["report"], metrics["class_rows"]))
    for line in [*interval_notes(metrics), *run_notes(metrics), verdict(metrics)]:
        if line:
            console.print(line)
    adapter, timing = metrics["adapter"], metrics["timing"]
    as_lora = (
        f", as plain LoRA {adapter['lora_bytes']:,} (truncation saved {adapter['lora_bytes_saved']:,} bytes)"
        if adapter["lora_bytes"] is not None
        else ""
    )
    step = timing["seconds_per_step"]
    took = f"{number(timing['seconds'])} s" if step is None else f"{number(step)} s a step"
    console.print(
        f"{adapter['trainable_parameters']:,} parameters trained on {metrics['rows']['train']:,} rows, {took}; "
        f"{adapter['bytes']:,} bytes{as_lora}"
    )
    console.print(f"report: {write_report(out)}")


with_settings(run, OWN)
