"""From cells to the table of a comparison."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from corefold.compare.statistics import interval_name, mean_interval, paired, spread
from corefold.tables.atomic import write_json, write_text

TABLE_CSV, TABLE_JSON = "table.csv", "table.json"

Cells = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SummaryRow:
    """A method at one number of training rows and one rank.

    Attributes:
        samples, rank, method: the cells that the row summarises; a method without rank appears in the block of every
            rank. The rank is None if no method has one.
        seeds: number of cells with a score.
        mean, spread: mean and sample standard deviation of the scores.
        difference: mean of the scores less the baseline's, over the seeds that both have.
        low, high: interval of the difference, by Student's t or the bootstrap; None where there is none.
        pairs: number of seeds that the difference is taken over.
        wins, losses: number of seeds at which the method is better than the baseline, and worse.
        trainable_parameters, seconds_per_step, bytes: medians of the cells.
        lr: learning rates of the cells; if they differ, each with its count.
        errors: number of cells that ended in an error.
        error: the first of these errors.
    """

    samples: int
    rank: int | None
    method: str
    seeds: int
    mean: float | None = None
    spread: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int | None = None
    wins: int | None = None
    losses: int | None = None
    trainable_parameters: int | None = None
    seconds_per_step: float | None = None
    bytes: int | None = None
    lr: str = ""
    errors: int = 0
    error: str = ""


def summarise(cells: Iterable[Mapping[str, Any]], methods: Sequence[str]) -> list[SummaryRow]:
    """The rows of the table, by number of training rows, rank and method.

    Args:
        cells: records, in any order.
        methods: the methods in order, the baseline first; others follow by name.
    """
    cells = list(cells)
    order = [*methods, *sorted({cell["method"] for cell in cells} - set(methods))]
    ranks = sorted({cell["rank"] for cell in cells} - {None}) or [None]
    rows = []
    for samples in sorted({cell["samples"] for cell in cells}):
        for rank in ranks:
            block = {
                name: [c for c in cells if (c["method"], c["samples"]) == (name, samples) and c["rank"] in (rank, None)]
                for name in order
            }  # fmt: skip
            rows += [_row(samples, rank, name, block[name], block[order[0]], name != order[0])
                     for name in order if block[name]]  # fmt: skip
    return rows


def _row(
    samples: int, rank: int | None, method: str, cells: Cells, baseline: Cells, compared: bool
) -> SummaryRow:
    whole = [cell for cell in cells if cell["error"] is None]
    failed = [cell["error"] for cell in cells if cell["error"] is not None]
    columns = {"errors": len(failed), "error": failed[0] if failed else ""}
    if not whole:
        return SummaryRow(samples, rank, method, 0, **columns)
    scores = score_by_seed(whole)
    differences = paired(
        scores,
        score_by_seed(baseline),
        lower_is_better=whole[0]["lower_is_better"],
        interval=mean_interval,
    )
    if differences is not None and compared:
        columns |= {
            "difference": differences.mean,
            "low": _known(differences.low),
            "high": _known(differences.high),
            "pairs": differences.pairs,
            "wins": differences.wins,
            "losses": differences.losses,
        }
    return SummaryRow(
        samples,
        rank,
        method,
        len(scores),
        fmean(scores.values()),
        spread(np.array(list(scores.values()))),
        trainable_parameters=round(median(cell["trainable_parameters"] for cell in whole)),
        seconds_per_step=_median(cell["seconds_per_step"] for cell in whole),
        bytes=round(median(cell["bytes"] for cell in whole)),
        lr=_counted([cell["settings"]["lr"] for cell in whole]),
        **columns,
    )


def score_by_seed(cells: Cells) -> dict[int, float]:
    """The main score of the cells that have one."""
    return {cell["seed"]: cell["scores"][cell["main"]] for cell in cells if cell["error"] is None}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _counted(rates: Sequence[float | None]) -> str:
    rates = [rate for rate in rates if rate is not None]
    counts = {rate: rates.count(rate) for rate in sorted(set(rates))}
    if len(counts) <= 1:
        return "".join(f"{rate:g}" for rate in counts)
    return ", ".join(f"{rate:g} x{count}" for rate, count in counts.items())


def write_tables(out: Path, rows: Sequence[SummaryRow], about: Mapping[str, str]) -> None:
    """Write the table as csv and as JSON; a reader sees the old file or the new one.

    The csv is for people: its numbers have four digits, and columns at its end say which model and data they come from.

    Args:
        out: the folder.
        rows: the table.
        about: these last columns.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [*(each.name for each in fields(SummaryRow)), *about], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**_rounded(asdict(row)), **about} for row in rows)
    write_text(out / TABLE_CSV, text.getvalue())
    write_json(out / TABLE_JSON, [asdict(row) for row in rows])


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}


def interval_notes(rows: Sequence[SummaryRow]) -> list[str]:
    """A line for each way in which the intervals of the differences were made, and one if some have none."""
    compared = [row for row in rows if row.pairs]
    lines = [interval_name(pairs) for pairs in sorted({row.pairs for row in compared if row.pairs})]
    equal = any(row.low is None and (row.pairs or 0) > 1 for row in compared)
    return [*lines, *(["no interval where a difference is the same at every seed"] if equal else [])]
