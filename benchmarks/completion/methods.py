"""Methods that complete a matrix: each gets the seen entries and predicts the judged ones.

Ours and the peers that run on the library's own kernels are here; `other_packages` has the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.completion.other_packages import cmfrec, gcimpute, implicit, iterative, knn, myfm, surprise
from benchmarks.completion.soft_impute import soft_impute
from benchmarks.completion.task import Answer, CompletionTask
from corefold.completion import DeepMatrixCompletion
from corefold.completion.biases import Biases
from corefold.completion.distributed import RowPartition

RANKS = (1, 2, 3, 5, 8, 12, 16, 24, 32, 48)


def deep(task: CompletionTask, depth: int = 3) -> Answer:
    """The defaults, except where a case is about a bound on the rank."""
    estimator = DeepMatrixCompletion(task.case.max_rank, depth=depth, random_state=task.seed)
    estimator.fit(task.case.seen, shape=task.case.shape)
    predicted = estimator.entries(*task.case.judged[:2])
    return Answer(predicted, facts={"rank": estimator.rank_, "steps": estimator.n_iter_})


def als(task: CompletionTask) -> Answer:
    """Alternating least squares at the true rank where there is one, else at the best of ten ranks."""
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


def biases(task: CompletionTask) -> Answer:
    """Mean and the biases of rows and columns: any method must beat these."""
    fitted = Biases.fit(task.observed, RowPartition())

    def predict(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return (fitted.mean + fitted.row[rows] + fitted.column[columns]).numpy()

    return Answer(task.judge(predict))


METHODS: dict[str, tuple[str, Callable[[CompletionTask], Answer]]] = {
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
