"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from corefold.compare.summary import SummaryRow, interval_notes
from corefold.compare.words import (
    DIGESTS,
    difference_text,
    headings,
    score_text,
    settings_in_words,
    title_of,
    won_and_lost,
)
from corefold.report import Section, Table, figure_svg, write_page
from corefold.report.comparison_plots import Point, score_lines

PAGE = "index.html"


def write_comparison(
    out: Path,
    rows: Sequence[SummaryRow],
    cells: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    baseline: str,
) -> Path:
    """Write index.html from the table, its cells and the settings that they share."""
    first = cells[0]
    metric = first["main"]
    better = "lower is better" if first["lower_is_better"] else "higher is better"
    caption = (
        f"{title_of(first)}. {metric}, {better}: mean and standard deviation over seeds. At one seed every method gets "
        f"the same training rows in the same batches, so differences to {baseline} are taken seed by seed, with the "
        f"95 % interval of their mean ({'; '.join(interval_notes(rows)) or 'no method to compare with'}). A method "
        "without rank appears in the block of every rank."
    )
    digests = {f"digest of {name}": settings[name] for name in DIGESTS if settings.get(name)}
    return write_page(
        out / PAGE,
        f"corefold compare: {', '.join(dict.fromkeys(row.method for row in rows))}",
        [
            Section("Scores", caption, Table(*_score_table(rows, first, baseline))),
            *_pictures(rows, metric),
            Section("Cost", "Medians over seeds. The bytes are those of the file beside the base model: adapter and "
                    "head, or all trained weights.", Table(*_cost_table(rows))),
            *_errors(rows),
            Section("Settings", "All cells share these. Those that are not set are decided for each method, task and "
                    "number of rows; each line of cells.jsonl has them.", settings=settings_in_words(settings, first)),
            *_tries(settings.get("tries", {})),
            Section("Versions", settings={**_together(cells, "versions"), **digests}),
            Section("Machine", settings=_together(cells, "machine")),
        ],
    )  # fmt: skip


def _score_table(
    rows: Sequence[SummaryRow], cell: Mapping[str, Any], baseline: str
) -> tuple[list[str], list[list[Any]]]:
    header = ["method", "rows", "rank", *headings(cell, baseline), "seeds"]
    return header, [
        [r.method, r.samples, r.rank, score_text(r), difference_text(r), won_and_lost(r), r.seeds]
        for r in rows
    ]


def _cost_table(rows: Sequence[SummaryRow]) -> tuple[list[str], list[list[Any]]]:
    header = ["method", "rows", "rank", "trained parameters", "seconds a step", "bytes", "learning rate"]
    return header, [
        [r.method, r.samples, r.rank, r.trainable_parameters, r.seconds_per_step, r.bytes, r.lr]
        for r in rows
        if r.seeds
    ]


def _pictures(rows: Sequence[SummaryRow], metric: str) -> list[Section]:
    sections = []
    for rank in dict.fromkeys(row.rank for row in rows):
        lines = _lines(rows, "samples", lambda row, rank=rank: row.rank == rank)
        if any(lines.values()):
            draw = partial(score_lines, lines, metric=metric)
            heading = "Score against training rows" + ("" if rank is None else f": rank {rank}")
            sections.append(Section(heading, figure_svg=figure_svg(draw)))
    for samples in dict.fromkeys(row.samples for row in rows):
        lines = _lines(rows, "rank", lambda row, n=samples: row.samples == n and row.rank is not None)
        if any(lines.values()):
            draw = partial(score_lines, lines, metric=metric, against="rank")
            sections.append(Section(f"Score against rank: {samples:,} rows", figure_svg=figure_svg(draw)))
    return sections


def _lines(
    rows: Sequence[SummaryRow], axis: str, wanted: Callable[[SummaryRow], bool]
) -> dict[str, list[Point]]:
    """The points of every method; one without points keeps its place, and so its color in all pictures."""
    lines: dict[str, list[Point]] = {row.method: [] for row in rows}
    for row in rows:
        if wanted(row) and row.mean is not None:
            lines[row.method].append(Point(getattr(row, axis), row.mean, row.spread))
    return lines


def _errors(rows: Sequence[SummaryRow]) -> list[Section]:
    failed = [[row.method, row.samples, row.rank, row.errors, row.error] for row in rows if row.errors]
    if not failed:
        return []
    return [Section("Errors", table=Table(["method", "rows", "rank", "cells", "why"], failed))]


def _tries(tries: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Section]:
    shown = {
        method: ["; ".join(f"{name} {value:g}" for name, value in each.items()) for each in settings]
        for method, settings in tries.items()
        if settings
    }
    if not shown:
        return []
    caption = "In each cell a method chose one of these settings, on a fifth of its training rows."
    return [Section("Tries", caption, settings=shown)]


def _together(cells: Sequence[Mapping[str, Any]], part: str) -> dict[str, object]:
    """The entries of all cells; one that differs has a list of its values."""
    names = dict.fromkeys(name for cell in cells for name in cell[part])
    values_of = {name: list(dict.fromkeys(cell[part].get(name) for cell in cells)) for name in names}
    return {name: values[0] if len(values) == 1 else values for name, values in values_of.items()}
