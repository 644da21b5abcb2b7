"""Methods that complete a matrix, ours and its peers: each is given the entries seen and predicts the judged ones.

Here are those on the library's own kernels; completion_packages.py has the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from completion_packages import cmfrec, gcimpute, implicit, iterative, knn, myfm, surprise
from completion_task import Answer, Predict, Task

from corefold.completion import DeepMatrixCompletion
from corefold.completion.biases import Biases
from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed
from corefold.completion.processes import Rows
from corefold.completion.solvers import Problem

RANKS = (1, 2, 3, 5, 8, 12, 16, 24, 32, 48)
PENALTIES = {  # over the largest singular value of the observed entries, without and with biases
    False: np.geomspace(0.05, 0.001, 3),
    True: np.geomspace(0.5, 0.02, 3),
}
FINER = np.array([2, 1, -1, -2]) / 3  # of the step between them: where to look around the best of them


def deep(task: Task, depth: int = 3) -> Answer:
    """No setting touched; but where a case is about a rank bound, that."""
    estimator = DeepMatrixCompletion(task.case.max_rank, depth=depth, random_state=task.seed)
    estimator.fit(task.case.seen, shape=task.case.shape)
    predicted = estimator.entries(*task.case.judged[:2])
    return Answer(predicted, found={"rank": estimator.rank_, "steps": estimator.n_iter_})


def als(task: Task) -> Answer:
    """Alternating least squares told the true rank, or else the best of ten."""
    tries, best = [], None
    ranks = RANKS if task.case.rank is None else [task.case.rank]
    for rank in ranks:
        if rank > min(task.case.shape):
            continue
        estimator = DeepMatrixCompletion(rank, solver="als", random_state=task.seed)
        estimator.fit(task.case.seen, shape=task.case.shape)
        tries.append({"rank": rank, "held_out": estimator.validation_error_})
        if best is None or estimator.validation_error_ < best.validation_error_:
            best = estimator
    assert best is not None  # noqa: S101 - rank 1 always fits
    return Answer(best.entries(*task.case.judged[:2]), tries, {"rank": best.rank_})


def biases(task: Task) -> Answer:
    """Mean, rows' and columns' biases alone: what any method must beat."""
    found = Biases.fit(task.observed, Rows())

    def predict(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return (found.mean + found.row[rows] + found.column[columns]).numpy()

    return Answer(task.judge(predict))


def soft_impute(task: Task) -> Answer:
    """softImpute-ALS (Hastie, Mazumder, Lee, Zadeh, JMLR 2015): three penalties without and with biases, warm starts.

    Around the best of these six there are four more, the budget of all.
    """
    height, width = task.case.shape
    rank = min(height, width, 64, max(1, len(task.observed) // (height + width)))
    tries: list[dict[str, Any]] = []
    fitted: list[LowRank] = []

    def attempt(biased: bool, share: float, factors: LowRank) -> LowRank:
        factors = _soft_impute(problems[biased], factors, share * largest[biased])
        error = task.held_error(_around(around[biased], factors))
        tries.append({"biases": biased, "penalty": float(share), "held_out": error})
        fitted.append(factors)
        return factors

    def best() -> int:
        return min(range(len(tries)), key=lambda i: tries[i]["held_out"])

    around = {False: Biases.none(task.fitted), True: Biases.fit(task.fitted, Rows())}
    problems = {biased: _less(task.fitted, found, task.seed) for biased, found in around.items()}
    largest = {}
    for biased, problem in problems.items():
        factors = problem.leading(rank)
        largest[biased] = float(factors.s[0]) * problem.share
        for share in PENALTIES[biased]:
            factors = attempt(biased, share, factors)
    near = best()
    middle, biased = tries[near]["penalty"], tries[near]["biases"]
    for power in FINER:
        step = float(PENALTIES[biased][0] / PENALTIES[biased][1])
        attempt(biased, middle * step**power, fitted[near])
    chosen, factors = tries[best()], fitted[best()]
    again = Biases.fit(task.observed, Rows()) if chosen["biases"] else Biases.none(task.observed)
    factors = _soft_impute(
        _less(task.observed, again, task.seed), factors, chosen["penalty"] * largest[chosen["biases"]]
    )
    found = {"rank": int((factors.s > 1e-6 * factors.s[0]).sum())}
    return Answer(task.judge(_around(again, factors)), tries, found)


def _soft_impute(
    problem: Problem, factors: LowRank, penalty: float, most: int = 100, tol: float = 1e-4
) -> LowRank:
    """Ridge regressions on the matrix whose gaps the last answer fills, columns and rows in turn.

    Ends when the squared change of the matrix, as its singular values and the residual show it, is below tol.
    """
    before = math.inf
    for _ in range(most):
        for rows in (False, True):
            a, b = factors.u * factors.s.sqrt(), factors.v * factors.s.sqrt()
            left = problem.residual(factors)
            shrunken = factors.s + penalty
            if rows:
                a = (left.times(b) + a * factors.s) / shrunken
            else:
                b = (left.transposed_times(a) + b * factors.s) / shrunken
            factors = LowRank.product(a, b, problem.rows)
        objective = problem.square(problem.residual(factors)) / 2 + penalty * float(factors.s.sum())
        if before - objective <= tol * objective:
            break
        before = objective
    return factors


def _less(observed: Observed, around: Biases, seed: int) -> Problem:
    return Problem(observed.with_values(observed.values - around.at(observed)), Rows(), seed)


def _around(around: Biases, factors: LowRank) -> Predict:
    def predict(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        low = torch.linalg.vecdot(factors.u[rows] * factors.s, factors.v[columns])
        return (around.mean + around.row[rows] + around.column[columns] + low).numpy()

    return predict


METHODS: dict[str, tuple[str, Callable[[Task], Answer]]] = {
    "deep": ("DeepMatrixCompletion", deep),
    "deep2": ("DeepMatrixCompletion, depth 2", lambda task: deep(task, depth=2)),
    "als": ("ALS, rank told or tuned", als),
    "soft_impute": ("softImpute-ALS", soft_impute),
    "knn": ("KNNImputer", knn),
    "iterative": ("IterativeImputer", iterative),
    "cmfrec": ("cmfrec", cmfrec),
    "surprise": ("Surprise SVD", surprise),
    "myfm": ("myFM", myfm),
    "gcimpute": ("gcimpute", gcimpute),
    "implicit": ("implicit", implicit),
    "biases": ("biases alone", biases),
}
