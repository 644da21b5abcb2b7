"""Part `exact` of `benchmarks.completion.run`: seconds to an error of 1e-6 on exact data, beside ALS.

Times are compared by ratios within rounds: in each, both methods get the same new matrix, in shuffled order. ALS is
told the true rank and runs without held-out entries until it meets the observed values to 1e-6 or has used its seconds;
DeepMatrixCompletion has a max_rank of four times the true rank. The error of each at other entries is recorded.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Mapping
from typing import Any

from benchmarks.completion.descent import DESCENTS, descent
from benchmarks.completion.planted import PlantedMatrix, Predict, entries_of, planted
from benchmarks.shared.results import ResultFile, cell_name
from benchmarks.shared.rounds import RoundPlan, interleave, ratio, spread
from corefold.completion import DeepMatrixCompletion
from corefold.completion.distributed import RowPartition
from corefold.completion.entries import observed_entries, triples
from corefold.completion.solvers import ALS, CompletionProblem

TOL = 1e-6
ALS_MAX_SECONDS = 20.0
RANK_FACTOR = 4  # max_rank over the true rank
EXACT = {  # side, rank, observed entries, condition
    "d1000": (1000, 10, 200_000, 1.0),
    "condition100": (1000, 10, 60_000, 100.0),
    "d10000": (10_000, 10, 1_000_000, 1.0),
    "tiny": (80, 2, 2000, 1.0),  # for the tests
}


def exact(results: ResultFile, options: argparse.Namespace, about: Mapping[str, Any]) -> None:
    for name in options.exact.split(","):
        identity = {"part": "exact", "set": name, "seed": 0}
        if cell_name(identity) in results.cells and not options.again:
            continue
        figures = descent(*DESCENTS[name]) if name in DESCENTS else beside_als(*EXACT[name], options.rounds)
        results.put(cell_name(identity), {**identity, **figures, **about})
        ratios = {k: v for k, v in figures.items() if k.endswith("over_als") or k.startswith("wide_")}
        print(name, ratios, flush=True)


def beside_als(side: int, rank: int, entries: int, condition: float, rounds: int) -> dict[str, Any]:
    """Seconds and errors of both methods on new matrices, one a round."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the small size of this matrix
        warm_up, small = Race(rank), planted(0, 60, 2, 1200)
        warm_up.deep(small)  # loads compiled loops
        warm_up.als(small)
    race = Race(rank)

    def batch(seed: int) -> PlantedMatrix:
        race.begin(planted(seed, side, rank, entries, condition))
        return race.matrix

    seconds = interleave({"deep": race.deep, "als": race.als}, batch, RoundPlan("cpu", rounds, 0))
    race.judge()
    methods = {
        name: {"seconds": seconds[name], **spread(seconds[name]), "relative_error": errors}
        for name, errors in race.errors.items()
    }
    return {
        "side": side,
        "true_rank": rank,
        "observed": len(race.matrix.seen[2]),
        "condition": condition,
        "methods": methods,
        "ranks": race.ranks,
        # Where ALS ran out of its seconds, the ratio is a bound: ALS would have taken longer.
        "als_failed": sum(error > 10 * TOL for error in race.errors["als"]),
        "deep_over_als": ratio(seconds["deep"], seconds["als"]),
    }


class Race:
    """Both methods on one matrix after another.

    Errors are computed between rounds, by `begin` and `judge`, so that they are not timed.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.matrix: PlantedMatrix
        self.errors: dict[str, list[float]] = {"deep": [], "als": []}
        self.ranks: list[int] = []
        self._predictors: dict[str, Predict] = {}

    def begin(self, matrix: PlantedMatrix) -> None:
        self.judge()
        self.matrix = matrix

    def deep(self, matrix: PlantedMatrix) -> None:
        estimator = DeepMatrixCompletion(RANK_FACTOR * self.rank, random_state=0)
        estimator.fit(matrix.seen, shape=matrix.shape)
        self._predictors["deep"] = estimator.entries
        self.ranks.append(estimator.rank_)

    def als(self, matrix: PlantedMatrix) -> None:
        began = time.perf_counter()
        problem = CompletionProblem(observed_entries(triples(matrix.seen, matrix.shape)), RowPartition())
        scale = float(problem.observed.values.square().mean().sqrt())
        factors = problem.leading(self.rank)
        for step in ALS().path(problem, factors):
            factors = step.factors
            if step.error <= TOL * scale or time.perf_counter() - began > ALS_MAX_SECONDS:
                break
        self._predictors["als"] = entries_of(factors)

    def judge(self) -> None:
        for name, predict in self._predictors.items():
            self.errors[name].append(self.matrix.error(predict))
        self._predictors.clear()
