"""`corefold compare`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from corefold.cli.console import console, number, say_note, show_table
from corefold.cli.options import REQUIRED, with_settings
from corefold.errors import InputError
from corefold.finetune import RunConfig, load_settings
from corefold.finetune.config import MethodName, converted

if TYPE_CHECKING:
    from corefold.compare.plan import Plan
    from corefold.compare.summary import SummaryRow

NAME = "compare"
HELP = """Compare methods of fine-tuning on your own data, over ranks, numbers of training rows and seeds.

Example: `corefold compare --model sentence-transformers/all-MiniLM-L6-v2 --train train.csv --eval eval.csv
--text review --label stars --methods lora,deep-lora --ranks 2,8,32 --samples 16,64,256 --seeds 10 -o out`

Methods: {methods}; untouched is the model before any training. At one seed all methods get the same rows in the same
batches. OUT holds a line for each run (`cells.jsonl`), the table (`table.csv`, `table.json`) and `index.html`. After a
stop the same command continues the comparison; more methods, ranks, samples or seeds extend it.
""".format(methods=", ".join(get_args(MethodName)))

# Settings that each cell has for itself, and settings of runs that are kept.
AXES = (
    "method", "rank", "samples", "seed", "from_run", "tolerance", "checkpoint_every", "tracker", "folds", "keep",
    "patience",
)  # fmt: skip
TUNABLE = (
    "lr", "head_lr", "weight_decay", "steps", "batch_size", "depth", "init_scale", "basis_lr_ratio",
)  # fmt: skip

OWN = {
    "output": (Path, typer.Option("--output", "-o", help="Output folder."), REQUIRED),
    "config": (
        Path | None,
        typer.Option(
            "--config", help="YAML file of settings, as for finetune; options on the command line win."
        ),
        None,
    ),
    "methods": (
        str,
        typer.Option(help="Methods, with commas between them; the first is the baseline."),
        "lora,deep-lora",
    ),
    "ranks": (str, typer.Option(help="Ranks, with commas between them."), "8"),
    "samples": (
        str | None,
        typer.Option(
            help="Numbers of training rows, with commas between them; each seed draws its own. Default: all rows."
        ),
        None,
    ),
    "seeds": (int, typer.Option(min=1, help="Number of seeds, which count from 0."), 3),
    "tune": (
        list[str] | None,
        typer.Option(
            help="NAME=V1,V2,...: choose setting NAME on a held-out fifth of the training rows, anew in each cell. "
            "METHOD.NAME=... sets the values of one method; all methods must get equally many. NAME: "
            f"{', '.join(TUNABLE)}."
        ),
        None,
    ),
    "jobs": (
        int | None,
        typer.Option(
            min=1,
            help="Processes that run at once. Default: one for each GPU, or without GPUs one for each core.",
        ),
        None,
    ),
    "retry": (bool, typer.Option("--retry", help="Run the cells again that ended in an error."), False),
}


def run(
    output: Path,
    config: Path | None,
    methods: str,
    ranks: str,
    samples: str | None,
    seeds: int,
    tune: list[str] | None,
    jobs: int | None,
    retry: bool,
    **options: Any,
) -> None:
    """The command; its options beside these nine are fields of RunConfig."""
    stored = load_settings(config) if config is not None else {}
    settings = {name: value for name, value in stored.items() if name not in AXES}
    if left_out := [name for name, value in stored.items() if name in AXES and value is not None]:
        say_note(
            f"{config}: compare takes no {', '.join(left_out)} from a file; it has options of its own or none"
        )
    shared = RunConfig(
        **{**settings, **{name: value for name, value in options.items() if value is not None}}
    )
    names = _parts("--methods", methods)
    axes = {
        "methods": names,
        "ranks": _numbers("--ranks", ranks),
        "samples": None if samples is None else _numbers("--samples", samples),
        "tries": parse_tries(names, tune or []),
    }
    from corefold.compare.plan import begin

    plan = begin(shared, output, seeds=seeds, retry=retry, **axes)
    for line in plan.shared.tables.notes:
        say_note(line)
    try:
        with progress(plan) as done:
            plan.run(jobs, done)
    except KeyboardInterrupt:
        console.print(
            f"stopped; the finished cells are in {output}, and the same command continues from them"
        )
        raise
    _show(plan.results(), plan)


def _parts(flag: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"{flag} takes values with commas between; got {text!r}")
    return parts


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(part) for part in _parts(flag, text)]
    except ValueError as error:
        raise InputError(f"{flag} takes whole numbers with commas between; got {text!r}") from error


def parse_tries(methods: Sequence[str], options: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The settings that each method chooses from: all combinations of its values in `--tune`.

    >>> parse_tries(["lora", "full"], ["lr=1e-4,1e-3", "full.lr=1e-5,1e-4"])["full"]
    [{'lr': 1e-05}, {'lr': 0.0001}]

    Raises:
        InputError: not NAME=V1,V2,..., an unknown method or setting, or a value that the setting does not take.
    """
    values: dict[str, dict[str, list[Any]]] = {method: {} for method in methods}
    # Options for one method come last, so that they win.
    for text in sorted(options, key=lambda each: "." in each.partition("=")[0]):
        left, equals, right = text.partition("=")
        method, dot, name = left.strip().rpartition(".")
        name = name.replace("-", "_")
        if not equals or name not in TUNABLE:
            raise InputError(
                f"--tune takes NAME=V1,V2,... with NAME one of {', '.join(TUNABLE)}; got {text!r}"
            )
        if dot and method not in methods:
            raise InputError(f"--tune {text!r}: {method!r} is not among --methods {','.join(methods)}")
        parsed = [_setting(name, part) for part in _parts("--tune", right)]
        for each in [method] if dot else methods:
            values[each][name] = parsed
    return {method: _combined(own) for method, own in values.items()}


def _setting(name: str, text: str) -> Any:
    """The value of a setting that was written as text; how settings fit each other is checked with all of them."""
    return converted(name, text)


def _combined(values: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, each, strict=True)) for each in product(*values.values())] if values else []


@contextmanager
def progress(plan: Plan) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar on standard error if that is a terminal, else a line for each cell; both estimate the time left."""
    from corefold.compare.grid import Key

    total, began = sum(map(plan.grid.work, plan.todo)), time.monotonic()
    terminal, errors = (
        sys.stderr.isatty(),
        Console(stderr=True, markup=False, highlight=False, soft_wrap=True),
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=errors, transient=True, disable=not terminal) as bar:
        task = bar.add_task(f"0 of {len(plan.todo)} cells", total=total, left="")
        cells, worked = 0, 0.0

        def done(record: Mapping[str, Any]) -> None:
            nonlocal cells, worked
            key = Key.of(record)
            cells, worked = cells + 1, worked + plan.grid.work(key)
            left = time_left(time.monotonic() - began, worked, total)
            count = f"{cells} of {len(plan.todo)} cells"
            if terminal:
                bar.update(task, completed=worked, description=count, left=left)
            else:
                result = record["error"] or f"{record['main']} {number(record['scores'][record['main']])}"
                errors.print(f"{count}: {key}: {result}; {left}")

        yield done


def time_left(elapsed: float, worked: float, total: float) -> str:
    """The time left if every further step takes as long as a step took so far.

    >>> time_left(60, 1, 61)
    'about 1:00:00 left'
    """
    return f"about {timedelta(seconds=round(elapsed * (total - worked) / worked))} left"


def _show(rows: Sequence[SummaryRow], plan: Plan) -> None:
    """Print the table, the errors and the path of the page."""
    from corefold.compare.page import PAGE
    from corefold.compare.store import read_cells
    from corefold.compare.summary import interval_notes
    from corefold.compare.words import headings, title_of

    first = next(iter(read_cells(plan.out).values()))
    header = ["", "rows", "rank", *headings(first, plan.grid.methods[0])]
    show_table(header, [_scores(row) for row in rows], title_of(first))
    for line in interval_notes(rows):
        console.print(line)
    console.print()
    most = max(row.samples for row in rows)
    show_table(
        [f"{most:,} rows", "rank", "parameters trained", "s a step", "bytes kept"],
        [
            [row.method, *map(number, (row.rank, row.trainable_parameters, row.seconds_per_step, row.bytes))]
            for row in rows
            if row.samples == most and row.seeds
        ],
    )
    for row in rows:
        if row.errors:
            rank = "" if row.rank is None else f", rank {row.rank:,}"
            console.print(
                f"{row.method}, {row.samples:,} rows{rank}: {row.errors} without a score: {row.error}"
            )
    console.print(f"table: {plan.out / 'table.csv'}; page: {plan.out / PAGE}")


def _scores(row: SummaryRow) -> list[str]:
    from corefold.compare.words import difference_text, score_text, won_and_lost

    counts = [number(row.samples), number(row.rank)]
    return [row.method, *counts, score_text(row), difference_text(row), won_and_lost(row)]


with_settings(run, OWN, leave_out=AXES)
