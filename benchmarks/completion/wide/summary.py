"""Ratios of our error to the best simple answer's and to the best peer's, table by table, and their counts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.completion.wide.methods import NOMINAL, NULLS, OURS, PEERS
from benchmarks.shared.results import Cell

LEVEL = 0.02  # Errors this close are level.
FURTHEST = 0.05  # No peer should be further ahead than this.
MIN_JUDGED = 100  # entries of a column whose coverage says something


@dataclass(frozen=True)
class TableRatios:
    """Our error on a table over others' (medians over seeds of ratios within a seed).

    Attributes:
        name: of the table.
        seeds: their number.
        error: ours, by the table's measure.
        null, peer: the best method of each kind, and the ratio of our error to its; None where there is none.
        coverage: the share of judged entries in their intervals; None where there are too few entries for intervals.
        columns: the same for each column with enough judged entries, over all seeds.
        seconds: of our fit.
    """

    name: str
    seeds: int
    error: float
    null: tuple[str, float] | None
    peer: tuple[str, float] | None
    coverage: float | None
    columns: list[float]
    seconds: float


def ratios(cells: Iterable[Cell]) -> list[TableRatios]:
    """One for each table that has a result of ours."""
    by_set: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell["measure"] in cell["methods"].get(OURS, {}):
            by_set.setdefault(cell["set"], []).append(cell)
    return [_table_ratios(name, own) for name, own in by_set.items()]


def _table_ratios(name: str, cells: Sequence[Cell]) -> TableRatios:
    measure, ours = cells[0]["measure"], [cell["methods"][OURS] for cell in cells]
    covered = [one for one in ours if "coverage" in one]
    columns = [
        inside / judged
        for judged, inside in zip(*(_by_column(covered, kind) for kind in ("judged", "inside")), strict=True)
        if judged >= MIN_JUDGED
    ]
    return TableRatios(
        name,
        len(cells),
        statistics.median(one[measure] for one in ours),
        _best(cells, measure, NULLS),
        _best(cells, measure, PEERS),
        statistics.mean(one["coverage"] for one in covered) if covered else None,
        columns,
        statistics.median(one["seconds"] for one in ours),
    )


def _by_column(covered: Sequence[Cell], kind: str) -> list[int]:
    """Sums over seeds."""
    return [sum(counts) for counts in zip(*(one[f"{kind}_by_column"] for one in covered), strict=True)]


def _best(cells: Sequence[Cell], measure: str, names: Iterable[str]) -> tuple[str, float] | None:
    over = {}
    for name in names:
        both = [(cell["methods"][OURS], cell["methods"].get(name, {})) for cell in cells]
        own = [ours[measure] / max(other[measure], 1e-300) for ours, other in both if measure in other]
        if own:
            over[name] = statistics.median(own)
    return max(over.items(), key=lambda pair: pair[1]) if over else None


def summary(cells: Iterable[Cell]) -> str:
    """A line a table, the worst against peers first, and the counts."""
    tables = sorted(ratios(cells), key=lambda table: -(table.peer or table.null or ("", 0.0))[1])
    lines = [
        f"{'table':<20} {'error':>9} {'/ best null':>24} {'/ best peer':>23} {'coverage':>9} {'by column':>12} {'s':>6}"
    ]
    lines += [_line(table) for table in tables]
    lines += [_counts("null", [table.null[1] for table in tables if table.null])]
    lines += [_counts("peer", [table.peer[1] for table in tables if table.peer])]
    return "\n".join([*lines, *_coverage(tables)])


def _line(table: TableRatios) -> str:
    null, peer = (f"{one[1]:8.3f} {one[0]:<14}" if one else " " * 23 for one in (table.null, table.peer))
    columns = f"{min(table.columns):.2f} to {max(table.columns):.2f}" if table.columns else ""
    coverage = "none" if table.coverage is None else f"{table.coverage:.3f}"
    start = f"{table.name:<20} {table.error:9.4g}  {null} {peer}"
    return f"{start} {coverage:>9} {columns:>12} {table.seconds:6.1f}"


def _counts(kind: str, over: Sequence[float]) -> str:
    if not over:
        return f"against the best {kind}: nothing"
    won, lost = sum(one < 1 - LEVEL for one in over), sum(one > 1 + LEVEL for one in over)
    behind = sum(one > 1 + FURTHEST for one in over)
    return (
        f"against the best {kind}: {won} won, {len(over) - won - lost} level, {lost} lost of {len(over)} "
        f"({100 * (1 - lost / len(over)):.0f} % level or ahead), {behind} more than {100 * FURTHEST:g} % behind; "
        f"worst {max(over):.3f}, geometric mean {statistics.geometric_mean(over):.3f}"
    )


def _coverage(tables: Sequence[TableRatios]) -> list[str]:
    shares = [table.coverage for table in tables if table.coverage is not None]
    near = sum(abs(share - NOMINAL) <= 0.02 for share in shares)
    columns = [share for table in tables for share in table.columns]
    fair = sum(abs(share - NOMINAL) <= 0.05 for share in columns)
    seconds = sum(table.seconds for table in tables)
    return [
        f"coverage of {NOMINAL:g}: {near} of {len(shares)} tables within .02, {fair} of {len(columns)} columns "
        f"within .05; seconds of ours: {seconds:.1f}"
    ]


def count_table(results: dict[str, Any]) -> str:
    """Both groups in Markdown: how often ours is level or ahead, and how often far behind."""
    lines = [
        "| tables | seeds | against | level or ahead | over 5 % behind | geometric mean |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    groups = {"choose": "that settings were chosen on", "judge": "looked at in the end alone"}
    for group, name in groups.items():
        tables = ratios(cell for cell in results["cells"].values() if cell["group"] == group)
        for kind, others in (("null", "column means, biases"), ("peer", "the best tuned peer")):
            over = [best[1] for table in tables if (best := getattr(table, kind)) is not None]
            if not over:
                continue
            level = sum(ratio <= 1 + LEVEL for ratio in over)
            behind = sum(ratio > 1 + FURTHEST for ratio in over)
            mean = statistics.geometric_mean(over)
            seeds = max(table.seeds for table in tables)
            lines.append(f"| {len(over)} {name} | {seeds} | {others} | {level} | {behind} | {mean:.2f} |")
    return "\n".join(lines)
