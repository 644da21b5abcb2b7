"""Scores and reports of classes, from logits (rows, classes) and the numbers of the true classes (rows,)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score

from corefold.finetune.evaluation.intervals import (
    Intervals,
    bootstrap_intervals,
    row_weights,
    share_interval,
)

CALIBRATION_BINS = 10


def class_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1, log loss (nats) and calibration error.

    The calibration error is the expected one (Naeini et al. 2015): the mean distance between accuracy and the
    probability of the predicted class, over ten equal bins of that probability, weighted by rows.
    """
    predicted = logits.argmax(-1)
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, average="macro", zero_division=0)),  # type: ignore[arg-type]
        "log_loss": float(_losses(logits, labels).mean()),
        "calibration_error": float(np.abs(_surplus_by_bin(logits, labels).sum(0)).sum() / len(labels)),
    }


def class_intervals(logits: np.ndarray, labels: np.ndarray, seed: int) -> Intervals:
    """Intervals of `class_scores`."""
    labels, predicted = labels.astype(int), logits.argmax(-1)
    count, rows = logits.shape[-1], len(labels)
    true, guessed = np.eye(count)[labels], np.eye(count)[predicted]
    losses, surplus = _losses(logits, labels), _surplus_by_bin(logits, labels)

    def resampled(places: np.ndarray) -> dict[str, np.ndarray]:
        weights = row_weights(places)
        both, either = weights @ (true * guessed), weights @ (true + guessed)
        f1 = np.divide(2 * both, either, out=np.zeros_like(both), where=either > 0)
        return {
            "f1_macro": f1.sum(-1) / (either > 0).sum(-1),  # as scikit-learn, over the classes that occur
            "log_loss": weights @ losses / rows,
            "calibration_error": np.abs(weights @ surplus).sum(-1) / rows,
        }

    accuracy = share_interval(int((predicted == labels).sum()), rows)
    return {"accuracy": accuracy, **bootstrap_intervals(rows, resampled, seed)}


def constant_scores(
    train_labels: Sequence[int], eval_labels: Sequence[int], classes: int
) -> dict[str, float]:
    """Accuracy of the majority class, and the log loss of the shares of the classes in training.

    A class without training rows counts as one row more for every class, so that its loss is finite.
    """
    counts = np.bincount(train_labels, minlength=classes).astype(float)
    labels = np.asarray(eval_labels)
    accuracy = float(np.mean(labels == counts.argmax()))
    shares = counts if counts.all() else counts + 1
    return {"accuracy": accuracy, "log_loss": float(-np.log(shares / shares.sum())[labels].mean())}


def class_report(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """For each class precision, recall, F1 and rows; the confusion matrix, a row for each true class; the confidence.

    The confidence is the mean probability of the predicted class. Where it exceeds the accuracy, the model is too sure.
    """
    predicted, numbers = logits.argmax(-1), list(range(len(classes)))
    # Numbers stand for the names, since a class may be called "accuracy", as an entry of the report is.
    options: Any = {"output_dict": True, "zero_division": 0}
    found: Any = classification_report(
        labels, predicted, labels=numbers, target_names=[str(n) for n in numbers], **options
    )  # fmt: skip
    return {
        "classes": [
            {
                "class": name,
                "precision": found[str(number)]["precision"],
                "recall": found[str(number)]["recall"],
                "f1": found[str(number)]["f1-score"],
                "rows": int(found[str(number)]["support"]),
            }
            for number, name in enumerate(classes)
        ],
        "confidence": float(_probabilities(logits).mean()),
        "confusion": confusion_matrix(labels, predicted, labels=numbers).tolist(),
    }


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The negative log-likelihood of each row."""
    return -log_softmax(logits.astype(float), axis=-1)[np.arange(len(labels)), labels.astype(int)]


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """The probability of the predicted class of each row."""
    return np.exp(log_softmax(logits.astype(float), axis=-1).max(-1))


def _surplus_by_bin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Hit less probability of each row, (rows, bins), in the column of the bin of that probability."""
    probability = _probabilities(logits)
    bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return np.eye(CALIBRATION_BINS)[bins] * ((logits.argmax(-1) == labels) - probability)[:, None]
