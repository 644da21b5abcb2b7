"""Errors of samples: how they belong together within rows and columns, and how large they are in each kind of units."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from observations import low_rank, with_holes
from scipy.special import erf
from scipy.stats import spearmanr

from corefold.completion import DeepMatrixCompletion
from corefold.completion.blend import Blend
from corefold.completion.distributed import RowPartition
from corefold.completion.entries import observed_entries
from corefold.completion.predictive_errors import ErrorModel, Rows
from corefold.completion.solvers import covariance
from corefold.completion.standardization import TABLE, Form, Standardization
from corefold.completion.units import ColumnSpread, NormalScores, RootUnits

NOISE = 0.4
WHOLE = low_rank(150, 60, 3) + NOISE * np.random.default_rng(1).standard_normal((150, 60))
HOLES = with_holes(WHOLE, 0.6)
HIDDEN = np.isnan(HOLES)


def estimator(**settings):
    return DeepMatrixCompletion(**{"max_rank": 6, "random_state": 0, "candidates": "low_rank", **settings})


@pytest.fixture(scope="module")
def model():
    return estimator(validation_fraction=0.2).fit(HOLES)


def with_main(model, **changes):
    """A model that is alike but for the regression of its main member."""
    main = model.model_.main
    changed = replace(main, regression=replace(main.regression, **changes))
    other = copy.copy(model)
    other.model_ = Blend((changed,), (1.0,), model.model_.calibration)
    return other


@pytest.mark.parametrize("fit_bias", [False, True])
def test_errors_in_a_row_belong_together_as_the_dense_formula_says(fit_bias):
    whole = 3 * low_rank(60, 20, 2) + np.linspace(-5, 5, 60)[:, None] * fit_bias
    holes = with_holes(whole + 0.3 * np.random.default_rng(2).standard_normal(whole.shape), 0.5)
    holes[0] = np.nan
    holes[0, [3, 11]] = whole[0, [3, 11]]  # a row of which little is known
    model = estimator(max_rank=2, fit_bias=fit_bias, validation_fraction=0.2).fit(holes)
    main = model.model_.main
    v, ridge, spread = (getattr(main.regression, name).numpy() for name in ("loadings", "ridge", "spread"))
    assert main.biases.fitted == fit_bias
    if fit_bias:
        v, ridge = np.column_stack([v, np.ones(20)]), np.append(ridge, main.biases.shrinkage.row)
        spread = np.column_stack([spread, np.zeros(20)])
    seen = ~np.isnan(holes[0])
    precision = v[seen].T @ v[seen] + np.diag(ridge + spread[seen].sum(0))
    coordinates = np.append(model.model_.fold_in(observed_entries(holes)).members[0].coordinates[0], 1.0)
    expected = main.regression.noise * (np.eye(20) + v @ np.linalg.solve(precision, v.T))
    expected += np.diag(
        spread @ coordinates[: len(ridge)] ** 2
    )  # the main part of what doubt of loadings adds
    draws = model.sample(4000, at=(np.zeros(18, int), np.flatnonzero(~seen)), random_state=0)
    # Magnitudes are those of held-out errors, not normal ones; the correlation of ranks is that of normal errors still.
    drawn = 2 * np.sin(np.pi / 6 * spearmanr(draws).statistic)
    deviation = np.sqrt(np.diag(expected))[~seen]
    wanted = expected[np.ix_(~seen, ~seen)] / deviation[:, None] / deviation
    assert np.abs(wanted - np.eye(18)).max() > 0.3
    np.testing.assert_allclose(drawn, wanted, atol=0.1)
    assert np.sqrt(np.mean((drawn - wanted) ** 2)) < 0.035


def test_errors_in_a_column_belong_together_where_loadings_are_in_doubt(model):
    at = (np.flatnonzero(HIDDEN[:, 5])[:15], np.full(15, 5))
    regression = model.model_.main.regression
    assert not model.model_.main.biases.fitted
    doubtful = with_main(model, spread=20 * regression.spread)
    drawn = np.corrcoef(doubtful.sample(500, at=at, random_state=0).T)
    v, spread, ridge = (getattr(regression, name).numpy() for name in ("loadings", "spread", "ridge"))
    rng, errors = np.random.default_rng(0), np.empty((500, 15))
    for draw in range(500):
        w = v + np.sqrt(20 * spread) * rng.standard_normal(v.shape)
        for place, row in enumerate(at[0]):
            o = ~HIDDEN[row]
            gram = [side[o].T @ side[o] + np.diag(ridge) for side in (v, w)]
            around = np.linalg.solve(gram[1], w[o].T @ HOLES[row, o])
            doubt = np.linalg.inv(gram[0] + np.diag(20 * spread[o].sum(0))) * regression.noise
            errors[draw, place] = w[5] @ rng.multivariate_normal(around, doubt)
    wanted = np.corrcoef((errors + np.sqrt(regression.noise) * rng.standard_normal(errors.shape)).T)
    off = ~np.eye(15, dtype=bool)
    assert np.abs(wanted[off]).max() > 0.3
    assert np.corrcoef(drawn[off], wanted[off])[0, 1] > 0.9
    assert np.sqrt(np.mean((drawn - wanted) ** 2)) < 0.06
    sure = with_main(model, spread=0 * regression.spread).sample(500, at=at, random_state=0)
    assert np.abs(np.corrcoef(sure.T)[off]).max() < 0.2


def test_a_covariance_draws_a_row_from_its_conditional_normal_distribution():
    rng = np.random.default_rng(0)
    half = rng.standard_normal((6, 6))
    truth = half @ half.T + np.diag([0.05, 1.0, 0.05, 1.0, 0.05, 1.0])
    truth[:2, :2] += 2  # a part of columns 0 and 1 that no other column has
    whole = rng.multivariate_normal(np.zeros(6), truth, size=400)
    holes = with_holes(whole, 0.75)
    holes[0] = [np.nan, np.nan, *whole[0, 2:]]
    model = estimator(max_rank=2, fit_bias=False, validation_fraction=0.2).fit(holes)
    observed, ways = observed_entries(holes), RowPartition()
    prepared = Standardization.of(Form(TABLE, False), observed, ColumnSpread.of(observed, ways), ways)
    *_, step = covariance.path(prepared.problem(observed, 0))
    member = prepared.model(step, observed)
    model.model_ = Blend((member,), (1.0,), model.model_.calibration)
    S, o, m = step.covariance.numpy() * prepared.scale**2, [2, 3, 4, 5], [0, 1]
    conditional = S[np.ix_(m, m)] - S[np.ix_(m, o)] @ np.linalg.solve(S[np.ix_(o, o)], S[np.ix_(o, m)])
    wanted = conditional[0, 1] / np.sqrt(conditional[0, 0] * conditional[1, 1])
    assert abs(wanted) > 0.3
    drawn = model.sample(4000, at=([0, 0], [0, 1]), random_state=0)
    assert abs(np.corrcoef(drawn.T)[0, 1] - wanted) < 0.05
    means = S[np.ix_(m, o)] @ np.linalg.solve(S[np.ix_(o, o)], whole[0, o])
    np.testing.assert_allclose(drawn.mean(0), means, atol=4 * drawn.std() / np.sqrt(4000))


@pytest.mark.parametrize("units", [NormalScores, RootUnits])
def test_draws_stay_in_the_range_of_their_units(units):
    rng = np.random.default_rng(0)
    # Columns of fewer than 20 entries have no normal scores.
    scores = 0.3 * rng.standard_normal((200, 10)) + low_rank(200, 10, 2)
    counts = np.random.default_rng(0).poisson(np.square(low_rank(18, 150, 2) + 1)).astype(float)
    holes = with_holes(np.exp(2 * scores) if units is NormalScores else counts, 0.7)
    whole = np.exp(2 * scores) if units is NormalScores else counts
    model = DeepMatrixCompletion(random_state=0, clip=None, fit_bias=False).fit(holes)
    assert isinstance(model.model_.main.units, units)
    drawn = model.sample(50, random_state=0)
    hidden = np.isnan(holes)
    assert np.isfinite(drawn).all()
    low, high = np.nanmin(holes, 0), np.nanmax(holes, 0)
    assert (drawn >= (low if units is NormalScores else 0)).all()
    if units is NormalScores:
        assert (drawn <= high * (1 + 1e-12)).all()
    inside = []
    for coverage in (0.5, 0.9):
        ends = np.quantile(drawn[:, hidden], [(1 - coverage) / 2, (1 + coverage) / 2], axis=0)
        inside.append(((ends[0] <= whole[hidden]) & (whole[hidden] <= ends[1])).mean())
    assert abs(inside[0] - 0.5) < 0.06
    assert abs(inside[1] - 0.9) < 0.05


def test_knots_turn_normal_errors_into_those_held_out(model):
    errors = ErrorModel.of(model.model_, Rows(observed_entries(HOLES)))
    shares = erf(errors.levels.numpy() / np.sqrt(2))
    for level in (5, 10, 15):
        margins = model.model_.calibration.margins(float(shares[level])).double()
        columns = torch.arange(60)
        got = errors.calibrated(errors.knots[level].repeat(60), columns)
        np.testing.assert_allclose(got, margins, rtol=1e-9)
        np.testing.assert_allclose(
            errors.calibrated(-errors.knots[level].repeat(60), columns), -margins, rtol=1e-9
        )
