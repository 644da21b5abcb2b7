"""Part `quality` of `benchmarks.completion.run`: error at entries that no method saw, and seconds with tuning.

See `matrices` for the matrices, `methods` and `other_packages` for the methods.
"""

from __future__ import annotations

import argparse
import math
import signal
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.completion.matrices import CASES
from benchmarks.completion.methods import METHODS
from benchmarks.completion.task import Absent, CompletionTask
from benchmarks.shared.results import Cell, ResultFile, cell_name

PATIENCE = {  # how many times --limit a slow peer has; myFM is the best on ratings
    "myfm": 5,
    "iterative": 5,
    "gcimpute": 5,
    "knn": 2.5,
}


def quality(results: ResultFile, options: argparse.Namespace, about: Mapping[str, Any]) -> None:
    """All methods on all sets, seed by seed."""
    names, wanted = options.sets.split(","), options.methods.split(",")
    for method in wanted:  # loads imports and compiled loops
        attempt(method, CompletionTask(CASES["tiny"](0), 0), options.limit)
    late = {} if options.again else too_late(results.cells)
    for name, seed in [(name, seed) for seed in range(options.seeds) for name in names]:
        identity = {"part": "quality", "set": name, "seed": seed}
        methods = dict(results.cells.get(cell_name(identity), {}).get("methods", {}))
        missing = [method for method in wanted if options.again or method not in methods]
        if not missing:
            continue
        task = CompletionTask(CASES[name](seed), seed)
        for method in missing:
            reason = late.get((name, method))
            limit = options.limit * PATIENCE.get(method, 1)
            figures = {"absent": reason} if reason else attempt(method, task, limit)
            if figures.get("late"):
                late[name, method] = figures["absent"]
            methods[method] = {"label": METHODS[method][0], **figures}
            cell = {**identity, **task.case.about(), "methods": dict(methods), **about}
            results.put(cell_name(identity), cell)
            print(f"{name} {seed} {method}: {_line(figures)}", flush=True)


def too_late(cells: Mapping[str, Cell]) -> dict[tuple[str, str], str]:
    """Sets and methods that took too long on one seed, and the reason why other seeds are not tried."""
    return {
        (cell["set"], method): figures["absent"]
        for cell in cells.values()
        if cell["part"] == "quality"
        for method, figures in cell["methods"].items()
        if figures.get("late")
    }


def attempt(method: str, task: CompletionTask, limit: float) -> dict[str, Any]:
    """Error and seconds of one method on one matrix, or the reason why there are none."""
    began = time.perf_counter()
    try:
        with warnings.catch_warnings(), within(limit):
            warnings.simplefilter("ignore")  # about gaps that nothing can fill, and peers' dependencies
            answer = METHODS[method][1](task)
    except Absent as reason:
        return {"absent": str(reason)}
    except ImportError as error:
        return {"absent": f"not installed: {error}"}
    except TimeoutError:
        return {"absent": f"longer than {limit:g} s with its tuning", "late": True}
    seconds = time.perf_counter() - began
    return {**task.case.figures(answer.predicted), "seconds": seconds, **answer.facts, "tries": answer.tries}


@contextmanager
def within(limit: float, timer: int = signal.ITIMER_REAL, sent: int = signal.SIGALRM) -> Iterator[None]:
    """Raise TimeoutError after `limit` seconds of a timer, which sends that signal; 0 is no limit."""
    if not limit:
        yield
        return

    def end(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(sent, end)
    signal.setitimer(timer, limit)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(sent, before)


def summary(cells: Mapping[str, Cell]) -> str:
    """Medians over seeds: a line for each set, error and seconds of each method, the lowest error starred."""
    lines = []
    own = [cell for cell in cells.values() if cell["part"] == "quality"]
    for name in dict.fromkeys(cell["set"] for cell in own):
        same_set = [cell["methods"] for cell in own if cell["set"] == name]
        medians = {}
        for method in METHODS:
            runs = [methods[method] for methods in same_set if "rmse" in methods.get(method, {})]
            if runs:
                times = [run["seconds"] for run in runs if "seconds" in run]
                error = statistics.median(run["rmse"] for run in runs)
                medians[method] = error, statistics.median(times) if times else math.nan
        if medians:
            best = min(error for error, _ in medians.values())
            parts = [f"{m} {e:.4g}{'*' * (e == best)} ({s:.1f} s)" for m, (e, s) in medians.items()]
            lines.append(f"{name} [{len(same_set)}]: {', '.join(parts)}")
    return "\n".join(lines)


def _line(figures: Mapping[str, Any]) -> str:
    if "absent" in figures:
        return f"absent: {figures['absent']}"
    return f"rmse {figures['rmse']:.4g}, {figures['seconds']:.2f} s, rank {figures.get('rank', '-')}"
