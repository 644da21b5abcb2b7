"""softImpute-ALS (Hastie, Mazumder, Lee, Zadeh, JMLR 2015) on the library's kernels, and the choice of its penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.completion.planted import Predict, entries_of
from benchmarks.completion.task import Answer, CompletionTask
from corefold.completion.biases import Biases
from corefold.completion.distributed import RowPartition
from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed
from corefold.completion.solvers import CompletionProblem

MAX_RANK = 64
PENALTIES = {  # over the largest singular value of the observed entries; by whether biases are fitted first
    False: np.geomspace(0.05, 0.001, 3),
    True: np.geomspace(0.5, 0.02, 3),
}
FINER = np.array([2, 1, -1, -2]) / 3  # further penalties around the best, in steps between the first ones


@dataclass(frozen=True)
class Attempt:
    """One penalty, tried on the entries that are not held out."""

    biased: bool
    penalty: float
    held_out: float
    factors: LowRank


def soft_impute(task: CompletionTask) -> Answer:
    """Three penalties without and with biases, each from the fit before it, then four around the best of these six."""
    height, width = task.case.shape
    rank = min(height, width, MAX_RANK, max(1, len(task.observed) // (height + width)))
    around = {biased: _biases(task.fitted, biased) for biased in PENALTIES}
    problems = {biased: _residual_problem(task.fitted, part, task.seed) for biased, part in around.items()}
    starts = {biased: problem.leading(rank) for biased, problem in problems.items()}
    largest = {biased: float(starts[biased].s[0]) * problem.share for biased, problem in problems.items()}
    attempts: list[Attempt] = []

    def attempt(biased: bool, penalty: float, factors: LowRank) -> LowRank:
        factors = soft_imputed(problems[biased], factors, penalty * largest[biased])
        error = task.held_error(_predictor(around[biased], factors))
        attempts.append(Attempt(biased, penalty, error, factors))
        return factors

    def best() -> Attempt:
        return min(attempts, key=lambda one: one.held_out)

    for biased, factors in starts.items():
        for penalty in PENALTIES[biased]:
            factors = attempt(biased, float(penalty), factors)
    coarse = best()
    step = float(PENALTIES[coarse.biased][0] / PENALTIES[coarse.biased][1])
    for power in FINER:
        attempt(coarse.biased, coarse.penalty * step**power, coarse.factors)
    chosen = best()
    biases = _biases(task.observed, chosen.biased)
    problem = _residual_problem(task.observed, biases, task.seed)
    factors = soft_imputed(problem, chosen.factors, chosen.penalty * largest[chosen.biased])
    tries: list[dict[str, Any]] = [
        {"biases": one.biased, "penalty": float(one.penalty), "held_out": one.held_out} for one in attempts
    ]
    facts = {"rank": int((factors.s > 1e-6 * factors.s[0]).sum())}
    return Answer(task.judge(_predictor(biases, factors)), tries, facts)


def soft_imputed(
    problem: CompletionProblem, factors: LowRank, penalty: float, max_rounds: int = 100, tol: float = 1e-4
) -> LowRank:
    """Ridge regressions on the matrix whose gaps the last answer fills, columns and rows in turn.

    Ends when a round lowers the penalised objective by less than `tol` of it.
    """
    before = math.inf
    for _ in range(max_rounds):
        for rows in (False, True):
            a, b = factors.u * factors.s.sqrt(), factors.v * factors.s.sqrt()
            residual = problem.residual(factors)
            shrunken = factors.s + penalty
            if rows:
                a = (residual.times(b) + a * factors.s) / shrunken
            else:
                b = (residual.transposed_times(a) + b * factors.s) / shrunken
            factors = LowRank.product(a, b, problem.partition)
        objective = problem.square(problem.residual(factors)) / 2 + penalty * float(factors.s.sum())
        if before - objective <= tol * objective:
            break
        before = objective
    return factors


def _biases(observed: Observed, biased: bool) -> Biases:
    return Biases.fit(observed, RowPartition()) if biased else Biases.none(observed)


def _residual_problem(observed: Observed, biases: Biases, seed: int) -> CompletionProblem:
    return CompletionProblem(
        observed.with_values(observed.values - biases.at(observed)), RowPartition(), seed
    )


def _predictor(biases: Biases, factors: LowRank) -> Predict:
    low_rank = entries_of(factors)

    def predict(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return (biases.mean + biases.row[rows] + biases.column[columns]).numpy() + low_rank(rows, columns)

    return predict
