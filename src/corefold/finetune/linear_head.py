"""A linear head on embeddings that stay as they are: its best weights, with a penalty that cross-validation chooses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

STRENGTHS = np.logspace(-3, 3, 13)  # inverse penalties on weights of embeddings whose mean square norm is 1
FOLDS = 5
MANY_ROWS = 200  # from which one division into folds says enough
REPEATS = 4  # divisions of fewer rows
PATIENCE = 2  # strengths in a row that are worse than the best, after which the others are not tried
MAX_ITERATIONS = 1000
TRAINED_STRENGTH = 3.0  # for embeddings that the rows have trained


@dataclass(frozen=True)
class LinearHead:
    """Outputs `features @ weight^T + bias`."""

    weight: Float[np.ndarray, "outputs width"]
    bias: Float[np.ndarray, " outputs"]

    def __call__(self, features: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows outputs"]:
        """The outputs of rows."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True)
class FittedHead:
    """A head and how it was found.

    Attributes:
        head: for embeddings in their own units.
        strength: the inverse penalty, for embeddings whose mean square norm is 1.
        losses: by strength, of rows that other rows predict; empty where there are too few to choose.
    """

    head: LinearHead
    strength: float
    losses: dict[float, float]


Fit = Callable[[np.ndarray, np.ndarray, float], LinearHead]
Loss = Callable[[Tensor, Tensor], Tensor]


def fit_head(
    features: Float[np.ndarray, "rows width"],
    targets: np.ndarray,
    fit: Fit,
    loss: Loss,
    seed: int,
    strength: float | None = None,
) -> FittedHead:
    """The head with the strength whose loss on rows left out is lowest, the smallest of equal ones.

    Args:
        features: embeddings.
        targets: classes as integers, (rows,), which folds keep in proportion; or numbers, (rows,) or (rows, outputs).
        fit: from features, targets and strength, the head.
        loss: of outputs and targets, a mean over rows.
        seed: of the folds.
        strength: for embeddings that these rows have trained: they are further apart than those of new rows, so that
            rows left out would choose one that is far too large.
    """
    scale = float(np.sqrt(np.mean(np.sum(np.square(features), 1)))) or 1.0
    features = features / scale
    losses: dict[float, float] = {}
    splits = _splits(targets, seed) if strength is None else []
    for each in STRENGTHS.tolist() if splits else ():
        losses[each] = _left_out_loss(features, targets, fit, loss, splits, each)
        if len(losses) > [*losses].index(_best(losses)) + PATIENCE:
            break
    if strength is None:
        strength = _best(losses) if losses else 1.0
    head = fit(features, targets, strength)
    return FittedHead(LinearHead(head.weight / scale, head.bias), strength, losses)


def _best(losses: dict[float, float]) -> float:
    return min(losses, key=lambda strength: losses[strength])


def _splits(targets: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows left out, some times for few rows; none of fewer rows than folds."""
    rows, rng = len(targets), np.random.default_rng(seed)
    if rows < FOLDS:
        return []
    classes = targets if targets.ndim == 1 and targets.dtype.kind in "iu" else np.zeros(rows, dtype=int)
    splits = []
    for _ in range(1 if rows >= MANY_ROWS else REPEATS):
        # Dealt out class after class, so that each has its share in each fold.
        dealt = np.lexsort((rng.random(rows), rng.permutation(classes.max() + 1)[classes]))
        fold = np.empty(rows, dtype=int)
        fold[dealt] = np.arange(rows) % FOLDS
        splits += [(np.flatnonzero(fold != part), np.flatnonzero(fold == part)) for part in range(FOLDS)]
    return splits


def _left_out_loss(
    features: np.ndarray, targets: np.ndarray, fit: Fit, loss: Loss, splits: list, strength: float
) -> float:
    total = 0.0
    for kept, left_out in splits:
        outputs = fit(features[kept], targets[kept], strength)(features[left_out])
        total += float(loss(torch.from_numpy(outputs), torch.from_numpy(targets[left_out]))) * len(left_out)
    return total / sum(len(left_out) for _, left_out in splits)


def logistic(
    features: np.ndarray, labels: np.ndarray, classes: int, strength: float, balanced: bool
) -> LinearHead:
    """Logistic regression whose logits have a row for each class; two classes share one direction.

    A class without a row gets, at an average row, a probability as if it had one row beside the others.
    """
    weight, bias = np.zeros((classes, features.shape[1])), np.zeros(classes)
    present = np.unique(labels)
    if len(present) > 1:
        model = LogisticRegression(
            C=strength, max_iter=MAX_ITERATIONS, class_weight="balanced" if balanced else None
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features, labels)
        own, offset = model.coef_, model.intercept_
        if len(present) == 2:
            own, offset = np.concatenate([-own, own]) / 2, np.concatenate([-offset, offset]) / 2
        weight[present], bias[present] = own, offset
    absent = np.setdiff1d(np.arange(classes), present)
    if len(absent):
        known = torch.from_numpy(features @ weight[present].T + bias[present])
        bias[absent] = float(known.logsumexp(1).mean()) - np.log(len(labels))
    return LinearHead(weight, bias)


def logistic_of_each(
    features: np.ndarray, targets: Float[np.ndarray, "rows labels"], strength: float
) -> LinearHead:
    """Logistic regression of each label by itself; one that all rows have, or none, as if half a row were otherwise."""
    counts, rows = targets.sum(0), len(targets)
    weight, bias = (
        np.zeros((targets.shape[1], features.shape[1])),
        np.log((counts + 0.5) / (rows - counts + 0.5)),
    )
    for label in np.flatnonzero((counts > 0) & (counts < rows)):
        head = logistic(features, targets[:, label].astype(int), 2, strength, balanced=False)
        weight[label], bias[label] = head.weight[1] - head.weight[0], head.bias[1] - head.bias[0]
    return LinearHead(weight, bias)


def ridge(features: np.ndarray, targets: Float[np.ndarray, " rows"], strength: float) -> LinearHead:
    """Ridge regression of one number."""
    model = Ridge(alpha=1 / strength).fit(features, targets)
    return LinearHead(np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_))
