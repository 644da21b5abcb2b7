from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "multiple_imputation.py"


def test_multiple_imputation_example():
    example = runpy.run_path(str(EXAMPLE))
    scores = example["main"](seeds=1, draws=10, rows=200)
    rows_alone, once, one, many = scores.values()
    assert list(scores)[-1] == "10 samples, pooled"
    assert many["error"] < rows_alone["error"]
    assert many["standard error"] > one["standard error"]
    assert many["covered"] >= one["covered"]
    assert 0 < once["standard error"] < rows_alone["standard error"]


def test_tables_without_gaps_are_pooled_to_the_regression_of_one():
    example = runpy.run_path(str(EXAMPLE))
    rng = np.random.default_rng(0)
    table = rng.standard_normal((50, 4))
    coefficients, variances, freedom = example["regression"](table)
    assert freedom == 46
    found, total, _ = example["pooled"](np.stack([table, table]))
    np.testing.assert_allclose(found, coefficients)
    np.testing.assert_allclose(total, variances)


def test_rubins_rules():
    example = runpy.run_path(str(EXAMPLE))
    rng = np.random.default_rng(0)
    tables = rng.standard_normal((5, 40, 3))
    coefficients, variances = zip(*(example["regression"](table)[:2] for table in tables), strict=True)
    found, total, freedom = example["pooled"](tables)
    between = np.var(coefficients, axis=0, ddof=1)
    np.testing.assert_allclose(found, np.mean(coefficients, axis=0))
    np.testing.assert_allclose(total, np.mean(variances, axis=0) + 1.2 * between)
    lost = 1.2 * between / total
    old, seen = 4 / lost**2, 38 / 40 * 37 * (1 - lost)
    np.testing.assert_allclose(freedom, old * seen / (old + seen))
    assert freedom == pytest.approx(freedom.clip(0, 37))
