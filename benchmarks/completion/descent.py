"""The paper's gradient descent beside its wide form: seconds from one scale to one error.

A row of part `exact` of `benchmarks.completion.run`.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.completion.planted import PlantedMatrix, entries_of, planted
from corefold.completion.distributed import RowPartition
from corefold.completion.entries import observed_entries, triples
from corefold.completion.observed import Observed
from corefold.completion.solvers import CompletionProblem, Descent

GAMMAS = (0.01, 0.1, 0.3)  # learning rate of the bases over the factors'; the first is the paper's
ITERATIONS_PER_ERROR, MAX_ITERATIONS, MAX_SECONDS = 20, 20_000, 300.0
DESCENTS = {  # side, rank, observed entries, scale of the factors at the start, relative error at which a run ends
    "descent300": (300, 5, 18_000, 1e-2, 1e-3),
    # The paper's size. Its factors start at 1e-3, from which the wide form takes long; these start ten times as large.
    "descent1000": (1000, 5, 200_000, 1e-2, 1e-3),
    "descent-tiny": (40, 1, 800, 0.1, 0.1),  # for the tests
}


def descent(side: int, rank: int, entries: int, init_scale: float, target: float) -> dict[str, Any]:
    """Both forms from the same scale, at the same rate, until they meet the observed values to `target`."""
    matrix = planted(0, side, rank, entries)
    observed = observed_entries(triples(matrix.seen, matrix.shape))
    common: Any = {"init_scale": init_scale, "every": ITERATIONS_PER_ERROR}
    solvers = {f"compressed, gamma {gamma:g}": Descent(gamma=gamma, **common) for gamma in GAMMAS}
    solvers["wide"] = Descent(compressed=False, **common)
    methods = {name: _descend(solver, matrix, observed, rank, target) for name, solver in solvers.items()}
    wide = methods["wide"]
    compressed = {name: figures for name, figures in methods.items() if name != "wide"}
    return {
        "side": side,
        "true_rank": rank,
        "observed": len(observed),
        "init_scale": init_scale,
        "target": target,
        "methods": methods,
        # None where one of the two did not reach the error.
        "wide_over": {
            name: wide["seconds"] / figures["seconds"] if figures["met"] and wide["met"] else None
            for name, figures in compressed.items()
        },
        "wide_iteration_over": {
            name: wide["seconds"] / wide["iterations"] * figures["iterations"] / figures["seconds"]
            for name, figures in compressed.items()
        },
    }


def _descend(
    solver: Descent, matrix: PlantedMatrix, observed: Observed, rank: int, target: float
) -> dict[str, Any]:
    began = time.perf_counter()
    problem = CompletionProblem(observed, RowPartition())
    start = problem.leading(rank)
    scale, iterations, step = float(observed.values.square().mean().sqrt()), 0, None
    for step in solver.path(problem, start):
        iterations += solver.every
        if step.error <= target * scale or iterations >= MAX_ITERATIONS:
            break
        if time.perf_counter() - began > MAX_SECONDS:
            break
    seconds = time.perf_counter() - began
    assert step is not None  # noqa: S101 - a path does not end by itself
    return {
        "seconds": seconds,
        "iterations": iterations,
        "error": step.error / scale,
        "met": step.error <= target * scale,
        "relative_error": matrix.error(entries_of(step.factors)),
    }
