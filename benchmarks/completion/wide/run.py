"""Is completion ever worse than a simple answer, or than the best peer? Tables that packages ship, in their own units.

    python -m benchmarks.completion.wide.run                           # all methods, tables to choose settings by
    python -m benchmarks.completion.wide.run --methods deep --again    # ours anew, beside the peers' kept results
    python -m benchmarks.completion.wide.run --summary                 # what the file holds, and the picture
    python -m benchmarks.completion.wide.run --group judge --methods peers
    python -m benchmarks.completion.wide.run --group judge --methods deep --last   # at the end, once

`catalogue` has the tables and their two groups. Without --last, ours does not run on those of the group "judge", and no
result of theirs is printed. Peers need a Python that has them: pip install cmfrec myfm gcimpute; a peer that is not
installed, fails or takes more than --limit (slow ones have some times as much) is recorded as absent, with the
reason. Cells that the file holds stay, and so do the methods within a cell, unless --again. Every cell is one table and
one draw of hidden entries.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.completion.run import measured_code
from benchmarks.completion.wide.catalogue import TABLES, group
from benchmarks.completion.wide.figures import ratio_dots
from benchmarks.completion.wide.measure import Figures, measured
from benchmarks.completion.wide.methods import METHODS, NULLS, OURS, PEERS
from benchmarks.completion.wide.summary import summary
from benchmarks.shared.arguments import benchmark_parser
from benchmarks.shared.drawing import picture
from benchmarks.shared.results import ResultFile, cell_name

GROUPS_OF_METHODS = {"all": [*METHODS], "nulls": [*NULLS], "peers": [*NULLS, *PEERS]}
QUESTION = (
    "Is completion ever worse than a simple answer, or than the best peer, on tables in their own units?"
)
Job = tuple[str, int, list[str]]


def main() -> None:
    options = arguments()
    results = ResultFile(options.out, question=QUESTION)
    if not options.summary:
        run(results, options)
    if options.group == "choose" or options.last:
        cells = [cell for cell in results.cells.values() if cell["group"] == options.group]
        print(summary(cells))
        drawn = picture(lambda ax: ratio_dots(cells, ax), width=9, height=1.2 + 0.19 * len(TABLES) / 2)
        name = "figure.svg" if options.group == "choose" else "figure_judge.svg"
        options.out.with_name(name).write_text(drawn, encoding="utf-8")


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    parser = benchmark_parser(__doc__, Path(__file__).with_name("results.json"))
    parser.add_argument("--group", choices=("choose", "judge"), default="choose")
    parser.add_argument("--sets", help="tables of the group, separated by commas; all by default")
    parser.add_argument(
        "--methods", default="all", help=f"separated by commas, or {', '.join(GROUPS_OF_METHODS)}"
    )
    parser.add_argument("--seeds", type=int, default=1, help="draws of hidden entries")
    parser.add_argument(
        "--limit", type=float, default=20, help="processor seconds of a method on one table; 0: none"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, a table each")
    parser.add_argument("--again", action="store_true", help="measure what the file holds, too")
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    parser.add_argument("--last", action="store_true", help="let ours run on the group judge, and show it")
    options = parser.parse_args(line)
    options.methods = GROUPS_OF_METHODS.get(options.methods) or options.methods.split(",")
    if options.group == "judge" and not options.last and not options.summary and OURS in options.methods:
        parser.error("ours runs on the tables to judge by at the end only, with --last; or --methods peers")
    names = [name for name in TABLES if group(name) == options.group]
    options.sets = options.sets.split(",") if options.sets else names
    if strange := sorted(set(options.sets) - set(names)):
        parser.error(f"not of the group {options.group}: {', '.join(strange)}; it has {', '.join(names)}")
    return options


def run(results: ResultFile, options: argparse.Namespace) -> None:
    """Measure what is missing; each cell is written as soon as it is there."""
    about = measured_code()
    source = about.pop("source")
    jobs = [job for job in _jobs(results, options) if job[2]]
    for (name, seed, _), (case, methods) in _done(jobs, options):
        identity = {"set": name, "seed": seed}
        earlier = results.cells.get(cell_name(identity), {}).get("methods", {})
        if OURS in methods:
            methods[OURS]["source"] = source
        cell = {**identity, "group": options.group, **case, "methods": {**earlier, **methods}, **about}
        results.put(cell_name(identity), cell)
        shown = options.group == "choose" or options.last
        print(f"{name} {seed}: {_line(methods, case['measure']) if shown else 'done'}", flush=True)


def _jobs(results: ResultFile, options: argparse.Namespace) -> Iterator[Job]:
    for seed in range(options.seeds):
        for name in options.sets:
            there = results.cells.get(cell_name({"set": name, "seed": seed}), {}).get("methods", {})
            yield name, seed, [one for one in options.methods if options.again or one not in there]


def _done(
    jobs: list[Job], options: argparse.Namespace
) -> Iterator[tuple[Job, tuple[dict[str, Any], dict[str, Figures]]]]:
    if options.workers < 2:
        for job in jobs:
            yield job, measured(*job, options.limit)
        return
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measured, *job, options.limit): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _line(methods: dict[str, Figures], measure: str) -> str:
    return ", ".join(
        f"{name} {figures[measure]:.4g} ({figures['seconds']:.1f} s)"
        if measure in figures
        else f"{name} absent"
        for name, figures in methods.items()
    )


if __name__ == "__main__":
    main()
