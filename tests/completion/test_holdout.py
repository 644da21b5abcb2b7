"""Errors at entries held out: measured where the fit has not looked, beside baselines that everybody can compute."""

from __future__ import annotations

import numpy as np
import pytest
from observations import low_rank, with_holes

from corefold.completion.entries import observed_entries
from corefold.completion.holdout import HoldoutErrors, fit_and_measure
from corefold.completion.split import split
from corefold.errors import InputError

OBSERVED = observed_entries(with_holes(low_rank(60, 40, 2) + 3, 0.6))


def test_scores_are_root_mean_square_and_mean_absolute_error():
    errors = HoldoutErrors({"completed": np.array([3.0, -4.0, 0.0, 1.0])})
    assert len(errors) == 4
    assert errors.scores() == {"completed": (pytest.approx(26**0.5 / 2), 2.0)}


def test_errors_are_those_at_the_entries_held_out():
    fit = fit_and_measure(OBSERVED, {"max_rank": 3}, 0.2, seed=1)
    assert fit.errors is not None
    fitted, held = split(OBSERVED, 0.2, seed=1)
    rows, columns, values = held.row_of().numpy(), held.columns.numpy(), held.values.numpy()
    np.testing.assert_array_equal(
        fit.errors.residuals["completed"], values - fit.estimator.entries(rows, columns)
    )
    means = [fitted.values[fitted.columns == column].mean() for column in range(40)]
    np.testing.assert_allclose(fit.errors.residuals["column means"], values - np.array(means)[columns])
    assert [nominal for nominal, _, _ in fit.errors.coverage] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    scores = fit.errors.scores()
    assert scores["completed"] < scores["biases alone"]
    assert fit.summary().startswith(f"rank {fit.estimator.rank_}, ")


def test_nothing_is_measured_where_nothing_is_held_out():
    steps = []
    fit = fit_and_measure(OBSERVED, {"max_rank": 3}, callbacks=[steps.append])
    assert fit.errors is None
    assert len(steps) == fit.estimator.n_iter_
    with pytest.raises(InputError, match="leaves none to fit or to measure at"):
        fit_and_measure(observed_entries(np.array([[1.0, np.nan]])), {}, 0.5)
    with pytest.raises(InputError, match="max_rank"):
        fit_and_measure(OBSERVED, {"max_rank": 99})
