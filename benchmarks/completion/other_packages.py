"""Methods of other packages: scikit-learn's imputers, recommenders, and a Gaussian copula.

Packages that do not take part, as of NumPy 2 and scikit-learn 1.9: fancyimpute 0.7 passes `force_all_finite` to
scikit-learn, which no longer accepts it. hyperimpute 0.1.17 (2023) has softImpute, whose objective `methods` minimises
in faster loops, and requires notebooks and boosted trees. matrix_completion 0.0.2 (2020) does not import without cvxpy.
MissForest and miceforest fill gaps by trees, not at low rank; pyampute makes gaps.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import scipy.sparse as sp

from benchmarks.completion.planted import Predict
from benchmarks.completion.task import Absent, Answer, CompletionTask, arrays
from corefold.completion.observed import Observed

MAX_LEVELS = 20  # different values, up to which a column counts as ordinal


def knn(task: CompletionTask) -> Answer:
    from sklearn.impute import KNNImputer

    def fit(entries: Observed, setting: dict[str, Any]) -> Predict:
        return _filled(KNNImputer(**setting, keep_empty_features=True), entries)

    return task.tuned(fit, [{"n_neighbors": count} for count in (3, 5, 10, 20, 40)])


def iterative(task: CompletionTask) -> Answer:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    def fit(entries: Observed, setting: dict[str, Any]) -> Predict:
        return _filled(IterativeImputer(**setting, random_state=task.seed, keep_empty_features=True), entries)

    width = task.case.shape[1]
    counts = [count for count in (10, 30) if count < width] + [None] * (width <= 100)  # None: all, by default
    return task.tuned(fit, [{"n_nearest_features": count} for count in counts])


def _filled(imputer: Any, entries: Observed) -> Predict:
    filled = imputer.fit_transform(_table(entries))
    return lambda rows, columns: filled[rows, columns]


def _table(entries: Observed) -> np.ndarray:
    table = np.full(entries.shape, np.nan)
    rows, columns, values = arrays(entries)
    table[rows, columns] = values
    return table


def cmfrec(task: CompletionTask) -> Answer:
    from cmfrec import CMF  # pyright: ignore[reportMissingImports]

    def fit(entries: Observed, setting: dict[str, Any]) -> Predict:
        values, mean, scale = _standard(entries)
        rows, columns, _ = arrays(entries)
        model = CMF(**setting, nthreads=1, random_state=task.seed + 1, verbose=False, handle_interrupt=False)
        model.fit(sp.coo_matrix((values, (rows, columns)), shape=entries.shape))
        return lambda rows, columns: mean + scale * np.nan_to_num(model.predict(rows, columns))

    settings = [{"k": k, "lambda_": weight} for k in (10, 40) for weight in (0.03, 0.3, 1.0, 3.0, 10.0)]
    return task.tuned(fit, settings)


def surprise(task: CompletionTask) -> Answer:
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
    return task.tuned(fit, settings)


def myfm(task: CompletionTask) -> Answer:
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

    return task.tuned(fit, [{"rank": rank, "n_iter": 200} for rank in (5, 10, 20)])


def gcimpute(task: CompletionTask) -> Answer:
    """The Gaussian copula of low rank (Zhao, Udell, NeurIPS 2020), told the kind of its columns.

    When it guesses the kind, it takes columns of many zeros for truncated ones, and fails on some of them.
    """
    from gcimpute.low_rank_gaussian_copula import (  # pyright: ignore[reportMissingImports]
        LowRankGaussianCopula,
    )

    def fit(entries: Observed, setting: dict[str, Any]) -> Predict:
        table = _table(entries)
        lowest, highest = (extreme(table, 0) for extreme in (np.fmin.reduce, np.fmax.reduce))
        varied = lowest < highest  # it fails on columns that have one value or none
        filled = np.broadcast_to(
            np.where(np.isnan(lowest), entries.values.mean(), lowest), table.shape
        ).copy()
        model = LowRankGaussianCopula(**setting, random_state=task.seed)
        # Its code for ordinal columns calls np.round_, which NumPy 2 has renamed.
        with mock.patch.object(np, "round_", np.round, create=True):
            filled[:, varied] = model.fit_transform(table[:, varied], **_kinds(table[:, varied]))
        return lambda rows, columns: filled[rows, columns]

    return task.tuned(fit, [{"rank": rank} for rank in (2, 5, 10, 20) if rank < task.case.shape[1]])


def _kinds(table: np.ndarray) -> dict[str, list[int]]:
    """The columns of few levels, which many entries share, and the others."""
    kinds: dict[str, list[int]] = {"ordinal": [], "continuous": []}
    for column, values in enumerate(table.T):
        known = values[~np.isnan(values)]
        levels = len(np.unique(known))
        few = levels <= MAX_LEVELS and 2 * levels <= len(known)
        kinds["ordinal" if few else "continuous"].append(column)
    return {kind: columns for kind, columns in kinds.items() if columns}


def implicit(task: CompletionTask) -> Answer:
    raise Absent("ranks items by how often they were used, and predicts no values")


def _standard(entries: Observed) -> tuple[np.ndarray, float, float]:
    """Values of mean 0 and deviation 1, on which peers' weights mean the same for all data; the mean; the deviation."""
    mean, scale = float(entries.values.mean()), float(entries.values.std()) or 1.0
    return ((entries.values - mean) / scale).numpy(), mean, scale


PACKAGES = ("scikit-learn", "numba", "cmfrec", "scikit-surprise", "myfm", "gcimpute", "implicit")
