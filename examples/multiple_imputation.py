"""Regression on a table with gaps: samples of the completed table, pooled by Rubin's rules.

A fifth of the predictors' cells of scikit-learn's diabetes table are removed. A regression of the filled table alone
takes filled cells for measured ones. Samples differ where cells are missing, and so do their regressions; Rubin's rules
add what they differ by to the standard errors. The coefficients of the full table show how well this works.

python examples/multiple_imputation.py
"""

from __future__ import annotations

import numpy as np
from scipy.stats import t
from sklearn.datasets import load_diabetes

from corefold import DeepMatrixCompletion

MISSING_SHARE = 0.2
CONFIDENCE = 0.95


def regression(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients of the last column on the others, their variances and the degrees of freedom."""
    design, outcome = np.column_stack([np.ones(len(table)), table[:, :-1]]), table[:, -1]
    coefficients = np.linalg.lstsq(design, outcome, rcond=None)[0]
    freedom = len(design) - design.shape[1]
    noise = np.sum((outcome - design @ coefficients) ** 2) / freedom
    variances = noise * np.linalg.inv(design.T @ design).diagonal()
    return coefficients[1:], variances[1:], freedom


def pooled(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by Rubin's rules, with the degrees of freedom of Barnard and Rubin (Biometrika 86, 1999)."""
    parts = [regression(table) for table in tables]
    coefficients, variances = np.array([part[0] for part in parts]), np.array([part[1] for part in parts])
    within, between = variances.mean(0), (1 + 1 / len(tables)) * coefficients.var(0, ddof=1)
    total, whole = within + between, parts[0][2]
    lost = between / total
    observed = (whole + 1) / (whole + 3) * whole * (1 - lost)
    freedom = 1 / (lost**2 / (len(tables) - 1) + 1 / observed)
    return coefficients.mean(0), total, freedom


def main(seeds: int = 8, draws: int = 20, rows: int | None = None) -> dict[str, dict[str, float]]:
    """How near each way comes to the full table's coefficients, and how often its intervals hold them."""
    predictors, outcome = load_diabetes(return_X_y=True, scaled=False)
    full = np.column_stack([predictors, outcome])[:rows]
    full = (full - full.mean(0)) / full.std(0)  # coefficients in standard deviations
    goal, variances, _ = regression(full)
    results: dict[str, list[np.ndarray]] = {}
    for seed in range(seeds):
        gaps = np.random.default_rng(seed).random(full.shape) < MISSING_SHARE
        gaps[:, -1] = False
        table = np.where(gaps, np.nan, full)
        model = DeepMatrixCompletion(random_state=seed).fit(table)
        ways = {
            "complete rows alone": regression(table[~gaps.any(1)]),
            "filled once": regression(np.asarray(model.transform(table))),
            "one sample": regression(model.sample(1, random_state=seed)[0]),
            f"{draws} samples, pooled": pooled(model.sample(draws, random_state=seed)),
        }
        for name, (found, variance, freedom) in ways.items():
            margin = t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(variance)
            measured = (found - goal, np.sqrt(variance / variances), np.abs(found - goal) <= margin)
            results.setdefault(name, []).append(np.array(measured))
    print(f"{len(goal)} coefficients, {seeds} times {MISSING_SHARE:.0%} of the predictors' cells removed")
    print(f"{'':24}{'error':>8}{'bias':>8}{'standard error':>16}{f'covered at {CONFIDENCE:.0%}':>16}")
    scores = {}
    for name, measured in results.items():
        errors, ratios, covered = np.array(measured).transpose(1, 0, 2)
        scores[name] = {
            "error": float(np.sqrt(np.mean(errors**2))),
            "bias": float(np.sqrt(np.mean(errors.mean(0) ** 2))),
            "standard error": float(ratios.mean()),
            "covered": float(covered.mean()),
        }
        error, bias, ratio, share = scores[name].values()
        print(f"{name:24}{error:8.3f}{bias:8.3f}{ratio:16.2f}{share:16.0%}")
    print("error, bias: from the coefficients of the full table; standard error: over that of the full table")
    return scores


if __name__ == "__main__":
    main()
