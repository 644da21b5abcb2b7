"""One table, one seed, the methods that are missing: errors, coverage, seconds and choices."""

from __future__ import annotations

import io
import signal
import time
import warnings
from collections.abc import Iterable
from contextlib import redirect_stderr
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks.completion.matrices import CASES
from benchmarks.completion.quality import within
from benchmarks.completion.task import Absent, Answer, CompletionTask
from benchmarks.completion.wide.cases import WideCase, wide_case
from benchmarks.completion.wide.methods import METHODS, OURS, WideTask

# How many times the limit a slow peer has.
PATIENCE = {"soft_impute": 3, "iterative": 5, "gcimpute": 5, "myfm": 3}
# Other work on the machine takes none of a method's time.
processor_limit = partial(within, timer=signal.ITIMER_PROF, sent=signal.SIGPROF)
Figures = dict[str, Any]


def measured(
    name: str, seed: int, methods: Iterable[str], limit: float
) -> tuple[dict[str, Any], dict[str, Figures]]:
    """What the table is, and each method's figures on it."""
    load()
    case = wide_case(name, seed)
    task = WideTask(case, seed)
    return case.about(), {
        method: attempt(method, task, limit * PATIENCE.get(method, 1)) for method in methods
    }


@cache
def load() -> None:
    """Compile and import what the first fit in a process would be charged for."""
    METHODS[OURS](CompletionTask(CASES["tiny"](0), 0))


def attempt(method: str, task: WideTask, limit: float) -> Figures:
    """Errors and processor seconds of one method, or the reason why there are none; a failure is a reason, too."""
    began = time.process_time()
    try:
        # myFM shows a progress bar.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), processor_limit(limit):
            warnings.simplefilter("ignore")  # about rows without entries, and of peers about themselves
            answer = METHODS[method](task)
    except Absent as reason:
        return {"absent": str(reason)}
    except TimeoutError:
        return {"absent": f"more than {limit:g} processor seconds with its tuning"}
    except Exception as error:  # Peers fail in ways of their own.
        return {"absent": f"{type(error).__name__}: {error}"[:200]}
    seconds = time.process_time() - began
    figures = task.case.figures(answer.predicted)
    if not np.isfinite(figures["rmse"]):
        return {"absent": "a prediction that is no finite number"}
    return {**figures, **coverage(task.case, answer), "seconds": seconds, **answer.facts}


def coverage(case: WideCase, answer: Answer) -> Figures:
    """The share of judged entries in their intervals; by column how many there are, and how many of them are in."""
    if answer.interval is None:
        return {}
    (low, high), (_, columns, truth) = answer.interval, case.judged
    inside = (low <= truth) & (truth <= high)
    width = case.shape[1]
    return {
        "coverage": float(inside.mean()),
        "width": float(np.mean((high - low) / case.spread[columns])),
        "judged_by_column": np.bincount(columns, minlength=width).tolist(),
        "inside_by_column": np.bincount(columns, weights=inside, minlength=width).astype(int).tolist(),
    }
