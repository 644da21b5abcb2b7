"""Scores of numbers: predictions and true values (rows,), both in the units of the label."""

from __future__ import annotations

import numpy as np
from scipy.stats import pearsonr, rankdata, spearmanr

from corefold.finetune.evaluation.intervals import Intervals, bootstrap_intervals


def number_scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Pearson and Spearman correlation (0 if a side is constant), and mean squared error."""
    constant = np.ptp(predicted) == 0 or np.ptp(true) == 0
    return {
        "pearson": 0.0 if constant else float(pearsonr(predicted, true).statistic),  # type: ignore[attr-defined]
        "spearman": 0.0 if constant else float(spearmanr(predicted, true).statistic),  # type: ignore[attr-defined]
        "mse": float(np.mean((predicted - true) ** 2)),
    }


def number_intervals(predicted: np.ndarray, true: np.ndarray, seed: int) -> Intervals:
    """Intervals of `number_scores`."""
    errors = (predicted - true) ** 2

    def resampled(places: np.ndarray) -> dict[str, np.ndarray]:
        a, b = predicted[places], true[places]
        return {
            "pearson": _correlations(a, b),
            "spearman": _correlations(rankdata(a, axis=-1), rankdata(b, axis=-1)),
            "mse": errors[places].mean(-1),
        }

    return bootstrap_intervals(len(true), resampled, seed)


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of `a` with that of `b`, 0 where one is constant."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide(
        (a * b).sum(-1), scale, out=np.zeros_like(scale), where=scale > 1e-12 * scale.max(initial=0.0)
    )
