"""Methods that complete a matrix, ours and its peers: each is given the entries seen and predicts the judged ones.

Who has settings chooses among ten tries or fewer by the error at entries held out of those seen, the same share and
the same entries that DeepMatrixCompletion holds out, and fits all of them at the end; its seconds include that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from completion_data import Case
from sklearn.utils import check_random_state

from corefold.completion import DeepMatrixCompletion
from corefold.completion.biases import Biases
from corefold.completion.entries import observed_entries, triples
from corefold.completion.factors import LowRank
from corefold.completion.observed import Observed
from corefold.completion.processes import Rows
from corefold.completion.solvers import Problem
from corefold.completion.split import split

HELD_SHARE = 0.05  # as DeepMatrixCompletion has it
RANKS = (1, 2, 3, 5, 8, 12, 16, 24, 32, 48)
PENALTIES = {  # over the largest singular value of the observed entries, without and with biases
    False: np.geomspace(0.05, 0.001, 3),
    True: np.geomspace(0.5, 0.02, 3),
}
FINER = np.array([2, 1, -1, -2]) / 3  # of the step between them: where to look around the best of them
Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Absent(Exception):  # noqa: N818 - no error
    """A peer does not take part; the reason."""


class Task:
    """A case as peers see it: entries to tune on, entries to choose by, and all of them."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case, self.seed = case, seed
        self.observed = observed_entries(triples(case.seen, case.shape))
        drawn = int(check_random_state(seed).randint(2**31))  # as the estimator draws it
        self.fitted, self.held = split(self.observed, HELD_SHARE, drawn)
        values = case.seen[2]
        ends = float(values.min()), float(values.max())
        repeated = all(np.count_nonzero(values == end) > 1 for end in ends)
        self.bounds = ends if repeated else (-math.inf, math.inf)

    def clipped(self, predicted: np.ndarray) -> np.ndarray:
        """Within the ends of a scale on which values repeat, the rule of DeepMatrixCompletion, for all alike."""
        return np.clip(predicted, *self.bounds)

    def judge(self, predict: Predict) -> np.ndarray:
        return self.clipped(predict(*self.case.judged[:2]))

    def held_error(self, predict: Predict) -> float:
        rows, columns, values = arrays(self.held)
        return float(np.sqrt(np.mean((self.clipped(predict(rows, columns)) - values) ** 2)))


@dataclass(frozen=True)
class Answer:
    """Predictions at the judged entries, the tries before, and what else a method can say."""

    predicted: np.ndarray
    tries: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)


def arrays(observed: Observed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return observed.row_of().numpy(), observed.columns.numpy(), observed.values.numpy()


def tuned(
    task: Task, fit: Callable[[Observed, dict[str, Any]], Predict], settings: Sequence[dict[str, Any]]
) -> Answer:
    """The best of these settings on the entries held out, fitted to all."""
    tries = []
    for setting in settings:
        tries.append({**setting, "held_out": task.held_error(fit(task.fitted, setting))})
    chosen = min(range(len(tries)), key=lambda i: tries[i]["held_out"])
    predict = fit(task.observed, settings[chosen])
    return Answer(task.judge(predict), tries, {"chosen": settings[chosen]})


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


def knn(task: Task) -> Answer:
    from sklearn.impute import KNNImputer

    def fit(entries: Observed, setting: dict[str, Any]) -> Predict:
        return _filled(KNNImputer(**setting, keep_empty_features=True), entries)

    return tuned(task, fit, [{"n_neighbors": count} for count in (3, 5, 10, 20, 40)])


def iterative(task: Task) -> Answer:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    def fit(entries: Observed, setting: dict[str, Any]) -> Predict:
        return _filled(IterativeImputer(**setting, random_state=task.seed, keep_empty_features=True), entries)

    width = task.case.shape[1]
    counts = [count for count in (10, 30) if count < width] + [None] * (width <= 100)  # None: all, by default
    return tuned(task, fit, [{"n_nearest_features": count} for count in counts])


def _filled(imputer: Any, entries: Observed) -> Predict:
    table = np.full(entries.shape, np.nan)
    rows, columns, values = arrays(entries)
    table[rows, columns] = values
    filled = imputer.fit_transform(table)
    return lambda rows, columns: filled[rows, columns]


def cmfrec(task: Task) -> Answer:
    from cmfrec import CMF  # pyright: ignore[reportMissingImports]

    def fit(entries: Observed, setting: dict[str, Any]) -> Predict:
        values, mean, scale = _standard(entries)
        rows, columns, _ = arrays(entries)
        model = CMF(**setting, nthreads=1, random_state=task.seed + 1, verbose=False, handle_interrupt=False)
        model.fit(sp.coo_matrix((values, (rows, columns)), shape=entries.shape))
        return lambda rows, columns: mean + scale * np.nan_to_num(model.predict(rows, columns))

    settings = [{"k": k, "lambda_": weight} for k in (10, 40) for weight in (0.03, 0.3, 1.0, 3.0, 10.0)]
    return tuned(task, fit, settings)


def surprise(task: Task) -> Answer:
    import pandas as pd
    from surprise import SVD, Dataset, Reader  # pyright: ignore[reportMissingImports]

    def fit(entries: Observed, setting: dict[str, Any]) -> Predict:
        values, mean, scale = _standard(entries)
        rows, columns, _ = arrays(entries)
        reader = Reader(rating_scale=(float(values.min()), float(values.max())))
        known = pd.DataFrame({"row": rows, "column": columns, "value": values})
        model = SVD(**setting, random_state=task.seed)
        model.fit(Dataset.load_from_df(known, reader).build_full_trainset())

        def predict(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            pairs = zip(rows.tolist(), columns.tolist(), strict=True)
            return mean + scale * np.array([model.predict(*pair, clip=False).est for pair in pairs])

        return predict

    settings = [
        {"n_factors": k, "reg_all": weight, "n_epochs": epochs}
        for k in (10, 100)
        for weight in (0.02, 0.1)
        for epochs in (20, 60)
    ]
    return tuned(task, fit, settings)


def myfm(task: Task) -> Answer:
    if task.case.kind != "ratings":
        raise Absent("a factorization machine for ratings; run on these alone")
    from myfm import MyFMRegressor  # pyright: ignore[reportMissingImports]

    height, width = task.case.shape

    def coded(rows: np.ndarray, columns: np.ndarray) -> sp.csr_matrix:
        """A row for each entry, with a one for its user and a one for its film."""
        count = len(rows)
        both = np.stack([rows, columns + height], 1).ravel().astype(np.int64)
        return sp.csr_matrix(
            (np.ones(2 * count), both, np.arange(0, 2 * count + 1, 2)), (count, height + width)
        )

    def fit(entries: Observed, setting: dict[str, Any]) -> Predict:
        rows, columns, values = arrays(entries)
        model = MyFMRegressor(rank=setting["rank"], random_seed=task.seed)
        model.fit(coded(rows, columns), values, n_iter=setting["n_iter"])
        return lambda rows, columns: model.predict(coded(rows, columns))

    return tuned(task, fit, [{"rank": rank, "n_iter": 200} for rank in (5, 10, 20)])


def implicit(task: Task) -> Answer:
    raise Absent("ranks items by how often they were used, and predicts no values")


def _standard(entries: Observed) -> tuple[np.ndarray, float, float]:
    """Values of mean 0 and deviation 1, that weights of peers mean the same for all data; mean and deviation."""
    mean, scale = float(entries.values.mean()), float(entries.values.std()) or 1.0
    return ((entries.values - mean) / scale).numpy(), mean, scale


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
    "implicit": ("implicit", implicit),
    "biases": ("biases alone", biases),
}
PACKAGES = ("scikit-learn", "numba", "cmfrec", "scikit-surprise", "myfm", "implicit")
