"""Scores of predictions, from scikit-learn and SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from corefold.finetune.encoding import IGNORED
from corefold.finetune.task import Task

MAIN = {"classification": "accuracy", "regression": "pearson", "causal-lm": "perplexity"}
LOWER_IS_BETTER = {"perplexity"}


def compute_metrics(task: Task) -> Callable[[EvalPrediction], dict[str, float]]:
    """Trainer's `compute_metrics` for a task: it returns `scores`."""
    return lambda prediction: scores(
        task, np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    )


def scores(task: Task, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of the model's outputs.

    Args:
        task: the task.
        outputs: logits (rows, classes); regression outputs (rows,); for causal-lm the result of `token_scores`
            (rows, tokens, 2).
        labels: classes (rows,), scaled numbers (rows,) or token ids (rows, tokens).

    Returns:
        accuracy and macro F1; or Pearson and Spearman correlation (0 if a side is constant) and the mean squared
        error in the label's units; or mean loss a token (nats), perplexity and token accuracy.
    """
    if task.kind == "classification":
        from sklearn.metrics import accuracy_score, f1_score

        predicted = outputs.argmax(-1)
        return {
            "accuracy": float(accuracy_score(labels, predicted)),
            "f1_macro": float(f1_score(labels, predicted, average="macro", zero_division=0)),  # type: ignore[arg-type]
        }
    if task.kind == "regression":
        return _regression(outputs.reshape(-1) * task.scale, labels.reshape(-1) * task.scale)
    kept = labels[:, 1:] != IGNORED
    loss, hit = (outputs[:, :-1, part][kept].mean(dtype=np.float64) for part in (0, 1))
    return {"token_loss": float(loss), "perplexity": float(np.exp(loss)), "token_accuracy": float(hit)}


def _regression(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    constant = np.ptp(predicted) == 0 or np.ptp(true) == 0
    return {
        "pearson": 0.0 if constant else float(pearsonr(predicted, true).statistic),  # type: ignore[attr-defined]
        "spearman": 0.0 if constant else float(spearmanr(predicted, true).statistic),  # type: ignore[attr-defined]
        "mse": float(np.mean((predicted - true) ** 2)),
    }


def token_scores(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """For each token its loss and whether it was the likeliest, (rows, tokens, 2); the last place is padding.

    Trainer keeps these numbers instead of the logits, which hold one number for each word of the vocabulary.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    targets = labels[:, 1:].clamp(min=0)
    log_p = logits[:, :-1].float().log_softmax(-1)
    loss = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    hit = (log_p.argmax(-1) == targets).float()
    return torch.nn.functional.pad(torch.stack([loss, hit], -1), (0, 0, 0, 1))


def baseline(task: Task, train_labels: list[Any], eval_labels: list[Any]) -> dict[str, float]:
    """The score of the best constant answer: the majority class, or the mean; none for causal-lm."""
    if task.kind == "classification":
        majority = int(np.bincount(train_labels, minlength=task.outputs).argmax())
        return {"accuracy": float(np.mean(np.asarray(eval_labels) == majority))}
    if task.kind == "regression":
        error = (np.asarray(eval_labels) - np.mean(train_labels)) * task.scale
        return {"mse": float(np.mean(error**2))}
    return {}
