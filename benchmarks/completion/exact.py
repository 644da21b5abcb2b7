"""Part `exact` of completion.py: seconds to 1e-6 on exact data, and the paper's descent beside its wide form.

Times are compared by ratios within rounds: in each, the methods of a cell get the same new matrix, in shuffled order.
ALS is told the true rank and runs bare, no entry held out, until it meets the observed values to 1e-6 or its seconds
are over; DeepMatrixCompletion has max_rank four times the true one. What either comes to at other entries is recorded.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from completion_data import Triples

from corefold.completion import DeepMatrixCompletion
from corefold.completion.entries import observed_entries, triples
from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed
from corefold.completion.processes import Rows
from corefold.completion.solvers import ALS, Descent, Problem

if TYPE_CHECKING:
    from side_by_side import Results

TOL = 1e-6
LONGEST = 20.0  # seconds of ALS
GAMMAS = (0.01, 0.1, 0.3)  # learning rate of the bases over the factors'; the first is the paper's
EVERY, ITERATIONS, DESCENDS = 20, 20_000, 300.0  # of descent: between errors, at most, and seconds at most


@dataclass(frozen=True)
class Planted:
    """Observed entries of `left @ right.T`, which has a root mean square of 1."""

    left: np.ndarray
    right: np.ndarray
    seen: Triples

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.left), len(self.right)

    def error(self, at: Callable[[np.ndarray, np.ndarray], np.ndarray], count: int = 100_000) -> float:
        """Relative error at random entries."""
        stream = np.random.default_rng(0)
        rows, columns = (stream.integers(0, side, count) for side in self.shape)
        truth = np.einsum("ij,ij->i", self.left[rows], self.right[columns])
        return float(np.linalg.norm(at(rows, columns) - truth) / np.linalg.norm(truth))


def planted(
    seed: int, side: int, rank: int, entries: int, condition: float = 1.0, noise: float = 0.0
) -> Planted:
    """Random factors, or with a condition singular values that fall geometrically to 1/condition."""
    stream = np.random.default_rng(seed)
    left, right = (stream.standard_normal((side, rank)) for _ in range(2))
    if condition > 1:
        left, right = (np.linalg.qr(part)[0] for part in (left, right))
        left = left * np.geomspace(1, 1 / condition, rank)
    left /= np.sqrt(np.sum((left.T @ left) * (right.T @ right))) / side
    # Of so many draws with replacement, about as many places as asked for are different.
    draws = round(-(side**2) * np.log1p(-entries / side**2))
    place = np.unique(stream.integers(0, side**2, draws))
    rows, columns = (part.astype(np.int32) for part in np.divmod(place, side))
    values = _values(left, right, rows, columns)
    if noise:
        values += noise * stream.standard_normal(len(values))
    return Planted(left, right, (rows, columns, values))


def _values(left: np.ndarray, right: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """In parts: gathered factors of all entries would be the largest thing in memory."""
    out = np.empty(len(rows))
    for start in range(0, len(rows), 10**5):
        part = slice(start, start + 10**5)
        out[part] = np.einsum("ij,ij->i", left[rows[part]], right[columns[part]])
    return out


EXACT = {  # side, rank, observed entries, condition
    "d1000": (1000, 10, 200_000, 1.0),
    "condition100": (1000, 10, 60_000, 100.0),
    "d10000": (10_000, 10, 1_000_000, 1.0),
    "tiny": (80, 2, 2000, 1.0),  # for the tests
}
DESCENT = {  # side, rank, observed entries, scale of the factors at the start, error to come to
    "descent300": (300, 5, 18_000, 1e-2, 1e-3),
    # The paper's, but for factors that start ten times as large: from its 1e-3 the wide form takes long.
    "descent1000": (1000, 5, 200_000, 1e-2, 1e-3),
    "descent-tiny": (40, 1, 800, 0.1, 0.1),
}


def exact(results: Results, given: argparse.Namespace, about: Mapping[str, Any]) -> None:
    for name in given.exact.split(","):
        key = {"part": "exact", "set": name, "seed": 0}
        if results.find(key) is not None and not given.again:
            continue
        found = _descent(*DESCENT[name]) if name in DESCENT else _exact(*EXACT[name], given.rounds)
        results.put({**key, **found, **about})
        print(
            name,
            {k: v for k, v in found.items() if k.endswith("over_als") or k.startswith("wide_")},
            flush=True,
        )


def _exact(side: int, rank: int, entries: int, condition: float, rounds: int) -> dict[str, Any]:
    from side_by_side import interleave, ratio, spread  # with transformers: not for the process of `size`

    errors: dict[str, list[float]] = {"deep": [], "als": []}

    def deep(problem: Planted) -> None:
        estimator = DeepMatrixCompletion(4 * rank, random_state=0)
        estimator.fit(problem.seen, shape=problem.shape)
        last["deep"] = estimator.entries
        ranks.append(estimator.rank_)

    def als(problem: Planted) -> None:
        last["als"] = _at(_told(problem, rank))

    def batch(seed: int) -> Planted:
        judge()
        last["problem"] = planted(seed, side, rank, entries, condition)
        return last["problem"]

    def judge() -> None:
        for name in errors:
            if name in last:
                errors[name].append(last["problem"].error(last.pop(name)))

    last: dict[str, Any] = {}
    ranks: list[int] = []
    steps = {"deep": deep, "als": als}
    warm = planted(0, 60, 2, 1200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is small
        deep(warm)
        als(warm)
    last.clear()
    ranks.clear()
    seconds = interleave(steps, batch, "cpu", rounds, 0)
    judge()
    methods = {
        name: {"seconds": seconds[name], **spread(seconds[name]), "relative_error": errors[name]}
        for name in steps
    }
    return {
        "side": side,
        "true_rank": rank,
        "observed": len(last["problem"].seen[2]),
        "condition": condition,
        "methods": methods,
        "ranks": ranks,
        # Where ALS ran out of its seconds, a bound: it would have taken longer.
        "als_failed": sum(error > 10 * TOL for error in errors["als"]),
        "deep_over_als": ratio(seconds["deep"], seconds["als"]),
    }


def _told(problem: Planted, rank: int) -> LowRank:
    began = time.perf_counter()
    entries = Problem(observed_entries(triples(problem.seen, problem.shape)), Rows())
    scale = float(entries.observed.values.square().mean().sqrt())
    factors = entries.leading(rank)
    for step in ALS().path(entries, factors):
        factors = step.factors
        if step.error <= TOL * scale or time.perf_counter() - began > LONGEST:
            break
    return factors


def _at(factors: LowRank) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda rows, columns: torch.linalg.vecdot(factors.u[rows] * factors.s, factors.v[columns]).numpy()


def _descent(side: int, rank: int, entries: int, init_scale: float, target: float) -> dict[str, Any]:
    """Both forms from the same scale, at the same rate, until they meet the observed values to `target`."""
    problem = planted(0, side, rank, entries)
    observed = observed_entries(triples(problem.seen, problem.shape))
    common: Any = {"init_scale": init_scale, "every": EVERY}
    solvers = {f"compressed, gamma {gamma:g}": Descent(gamma=gamma, **common) for gamma in GAMMAS}
    solvers["wide"] = Descent(compressed=False, **common)
    methods = {name: _descends(solver, problem, observed, rank, target) for name, solver in solvers.items()}
    wide = methods["wide"]
    return {
        "side": side,
        "true_rank": rank,
        "observed": len(observed),
        "init_scale": init_scale,
        "target": target,
        "methods": methods,
        # None where one of them did not come to the error.
        "wide_over": {
            name: wide["seconds"] / found["seconds"] if found["met"] and wide["met"] else None
            for name, found in methods.items()
            if name != "wide"
        },
        "wide_iteration_over": {
            name: wide["seconds"] / wide["iterations"] * found["iterations"] / found["seconds"]
            for name, found in methods.items()
            if name != "wide"
        },
    }


def _descends(
    solver: Descent, problem: Planted, observed: Observed, rank: int, target: float
) -> dict[str, Any]:
    began = time.perf_counter()
    task = Problem(observed, Rows())
    start = task.leading(rank)
    scale, iterations, step = float(observed.values.square().mean().sqrt()), 0, None
    for step in solver.path(task, start):
        iterations += solver.every
        if step.error <= target * scale or iterations >= ITERATIONS or time.perf_counter() - began > DESCENDS:
            break
    seconds = time.perf_counter() - began
    assert step is not None  # noqa: S101 - a path does not end by itself
    return {
        "seconds": seconds,
        "iterations": iterations,
        "error": step.error / scale,
        "met": step.error <= target * scale,
        "relative_error": problem.error(_at(step.factors)),
    }
