"""What a fit chooses among: units, null models, covariances and blends; and data of any size, in any unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from observations import fitted, low_rank, with_holes
from sklearn.datasets import load_wine

from corefold.completion import DeepMatrixCompletion
from corefold.completion.biases import Biases
from corefold.completion.blend import blend_weights
from corefold.completion.distributed import RowPartition
from corefold.completion.entries import observed_entries
from corefold.completion.solvers import covariance
from corefold.completion.solvers.protocol import CompletionProblem
from corefold.completion.units import ColumnSpread, LinearUnits, NormalScores, RootUnits

ROWS = RowPartition()


def over_spread(filled, whole, hidden):
    """The root mean square error at hidden entries, over their columns' standard deviation."""
    errors = ((filled - whole) / whole.std(0))[hidden]
    return float(np.sqrt(np.mean(errors**2)))


def fit(X, **settings):
    return DeepMatrixCompletion(random_state=0, **settings).fit(X)


def test_columns_of_other_units_are_predicted_as_well_as_scaled_ones():
    whole = load_wine().data
    hidden = np.random.default_rng(0).random(whole.shape) < 0.2
    holes = np.where(hidden, np.nan, whole)
    model = fit(holes)
    scaled = fit((holes - np.nanmean(holes, 0)) / np.nanstd(holes, 0))
    again = scaled.transform((holes - np.nanmean(holes, 0)) / np.nanstd(holes, 0))
    error = over_spread(model.transform(holes), whole, hidden)
    assert error < 0.85
    assert error < 1.05 * over_spread(again * np.nanstd(holes, 0) + np.nanmean(holes, 0), whole, hidden)
    inside = np.zeros(whole.shape, bool)
    rows, columns = hidden.nonzero()
    lower, upper = model.intervals(rows, columns, 0.9)
    inside[rows, columns] = (lower <= whole[hidden]) & (whole[hidden] <= upper)
    assert abs(inside[hidden].mean() - 0.9) < 0.05
    by_column = inside.sum(0) / hidden.sum(0)  # about 36 entries each, whose own chance is 5 points
    assert by_column.min() > 0.7


def test_proportional_columns_of_very_different_size():
    rng = np.random.default_rng(0)
    factor = rng.standard_normal(200)
    whole = np.stack([1000 * factor, factor, factor], 1) + rng.standard_normal((200, 3)) * [100, 0.1, 0.1]
    hidden = (rng.random(whole.shape) < 0.3) & (rng.permuted(np.tile(np.arange(3), (200, 1)), axis=1) > 0)
    filled = fit(np.where(hidden, np.nan, whole)).transform(np.where(hidden, np.nan, whole))
    for column in range(3):
        part = hidden[:, column]
        errors = (filled - whole)[part, column]
        assert np.sqrt(np.mean(errors**2)) < 0.3 * whole[:, column].std()


@pytest.mark.parametrize("kind", ["noise", "right or wrong"])
def test_never_much_worse_than_means_and_biases(kind):
    rng = np.random.default_rng(1)
    if kind == "noise":
        whole = rng.standard_normal((120, 20)) + np.linspace(0, 5, 20)
    else:
        ability, ease = rng.standard_normal((150, 1)), rng.standard_normal(24)
        whole = (rng.random((150, 24)) < 1 / (1 + np.exp(-ability - ease))).astype(float)
    hidden = rng.random(whole.shape) < 0.2
    holes = np.where(hidden, np.nan, whole)
    biases = Biases.fit(observed_entries(holes), ROWS)
    alone = (biases.mean + biases.row[:, None] + biases.column).numpy()
    means = np.broadcast_to(np.nanmean(holes, 0), whole.shape)
    error = np.sqrt(np.mean((fit(holes, clip=None).transform(holes) - whole)[hidden] ** 2))
    best = min(np.sqrt(np.mean((each - whole)[hidden] ** 2)) for each in (alone, means))
    assert error < 1.02 * best


@pytest.mark.parametrize("settings", [{}, {"fit_bias": False, "candidates": "low_rank"}], ids=str)
def test_rows_and_columns_without_entries_get_means_and_honest_intervals(settings):
    rng = np.random.default_rng(2)
    whole = low_rank(80, 30, 2) + 11.7 + 0.3 * rng.standard_normal((80, 30))
    holes = with_holes(whole, 0.6)
    holes[7], holes[:, 4] = np.nan, np.nan
    with pytest.warns(UserWarning, match="no observed entry"):
        model = fit(holes, **settings)
    rows, columns = np.full(30, 7), np.arange(30)
    known = columns != 4
    predicted = model.entries(rows, columns)
    assert np.abs(predicted[known] - np.nanmean(holes[:, known], 0)).max() < 0.5
    assert abs(model.entries([3], [4])[0] - 11.7) < 2
    np.testing.assert_allclose(model.transform(holes)[7], predicted, rtol=1e-12)
    for place in ((rows, columns), (np.arange(80), np.full(80, 4))):
        lower, upper = model.intervals(*place, 0.9)
        assert ((lower <= whole[place]) & (whole[place] <= upper)).mean() > 0.7
    seen = model.intervals([3], [5], 0.9)
    assert upper[0] - lower[0] > 1.5 * (seen[1] - seen[0])[0]


@pytest.mark.parametrize(
    ("dtype", "scale", "offset", "most"),
    [
        (np.float64, 1e-300, 0, 1e-6),
        (np.float64, 1e150, 0, 1e-6),
        (np.float64, 2, 5e6, 1e-6),
        (np.float32, 1e-30, 0, 1e-5),
        (np.float32, 1e20, 0, 1e-5),
    ],
)
def test_any_offset_and_scale(dtype, scale, offset, most):
    whole = low_rank(60, 40, 2)
    X = (whole * scale + offset).astype(dtype)
    holes = with_holes(X, 0.5)
    filled = fit(holes).transform(holes).astype(np.float64)
    assert np.sqrt(np.mean(((filled - X.astype(np.float64)) / scale) ** 2)) < most * whole.std()


def test_low_rank_candidates_are_one_matrix():
    whole = low_rank(60, 20, 3) * np.geomspace(1, 100, 20)
    model = fit(
        with_holes(whole + np.random.default_rng(0).standard_normal(whole.shape), 0.4), candidates="low_rank"
    )
    assert len(model.model_.members) == 1
    assert {step["units"] for step in model.path_} == {"table"}
    for wrong in ({"candidates": "some"}, {"error": "squared"}):
        with pytest.raises(ValueError, match="must be"):
            fit(whole, **wrong)


def test_a_blend_is_the_weighted_mean_and_saved_as_one(tmp_path):
    whole = np.exp(low_rank(90, 12, 3, condition=2.0) / 3) * np.geomspace(1, 30, 12)
    holes = with_holes(whole * np.random.default_rng(0).lognormal(0, 0.2, whole.shape), 0.4)
    model = fit(holes, clip=None)
    blend = model.model_
    assert len(blend.members) > 1
    assert sum(blend.weights) == pytest.approx(1)
    rows, columns = (torch.from_numpy(each) for each in np.isnan(holes).nonzero())
    parts = [
        weight * member.entries(rows, columns)
        for weight, member in zip(blend.weights, blend.members, strict=True)
    ]
    np.testing.assert_allclose(model.entries(rows.numpy(), columns.numpy()), sum(parts), rtol=1e-12)
    model.save(tmp_path / "model.safetensors")
    loaded = DeepMatrixCompletion.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(fitted(loaded, holes.shape), fitted(model, holes.shape))
    np.testing.assert_array_equal(loaded.transform(holes), model.transform(holes))
    np.testing.assert_array_equal(loaded.intervals([0], [0]), model.intervals([0], [0]))


def test_blend_weights_are_those_of_the_quadratic_program():
    from scipy.optimize import minimize

    errors = np.random.default_rng(0).standard_normal((5, 300)) * [[1.0], [1.1], [1.2], [2.0], [5.0]]
    errors[1] = 0.9 * errors[0] + 0.3 * errors[1]
    gram = errors @ errors.T / 300
    exact = minimize(
        lambda w: w @ gram @ w, np.full(5, 0.2), bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-14},
    )  # fmt: skip
    found = blend_weights(torch.from_numpy(gram)).numpy()
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)
    assert found @ gram @ found < exact.fun * 1.001


def test_a_covariance_predicts_by_conditional_means():
    rng = np.random.default_rng(0)
    X = with_holes(
        rng.standard_normal((40, 3)) @ rng.standard_normal((3, 6)) + 0.3 * rng.standard_normal((40, 6)), 0.3
    )
    problem = CompletionProblem(observed_entries(X), ROWS)
    *_, step = covariance.path(problem)
    S, filled = step.covariance.numpy(), step.factors.u @ torch.diag(step.factors.s) @ step.factors.v.mT
    for row in range(40):
        o, m = ~np.isnan(X[row]), np.isnan(X[row])
        expected = S[np.ix_(m, o)] @ np.linalg.solve(S[np.ix_(o, o)], X[row, o])
        np.testing.assert_allclose(filled[row].numpy()[m], expected, atol=1e-6)
    assert not covariance.affordable(problem, max_rank=2)


def test_units_turn_scores_back():
    rng = np.random.default_rng(0)
    X = rng.lognormal(0, 1, (50, 4)) * [1, 10, 100, 1000]
    X[:, 2] = np.round(X[:, 2] / 100)  # of few different values
    observed = observed_entries(X)
    spread = ColumnSpread.of(observed, ROWS)
    for units in (
        LinearUnits.of_columns(spread),
        NormalScores.of(observed, spread),
        RootUnits.of(observed, ROWS),
    ):
        scores = units.forward(observed.values, observed.columns)
        torch.testing.assert_close(
            units.backward(scores, observed.columns), observed.values, rtol=1e-9, atol=1e-9
        )
        beyond = torch.linspace(0.0, 3e4, 100, dtype=torch.float64)
        assert (units.forward(beyond, torch.zeros(100, dtype=torch.int64)).diff() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_without_directions_is_zero(dtype):
    observed = observed_entries(with_holes(np.ones((50, 40)), 0.5))
    observed = observed.with_values(observed.values.to(dtype))
    # Parts of arrays of ones, so that a read beyond the factors finds something.
    left, right = (torch.ones(side, 1, dtype=dtype)[:, :0] for side in (50, 40))
    assert torch.equal(observed.products(left, right), torch.zeros(len(observed), dtype=dtype))
    assert observed.times(right).shape == (50, 0)


def test_shrinkage_is_the_ratio_of_the_variances():
    rng = np.random.default_rng(0)
    X = 0.5 * rng.standard_normal((400, 1)) + 2 * rng.standard_normal(200) + rng.standard_normal((400, 200))
    shrinkage = Biases.fit(observed_entries(with_holes(X, 0.5)), ROWS).shrinkage
    assert shrinkage.row == pytest.approx(1 / 0.25, rel=0.2)
    assert shrinkage.column == pytest.approx(1 / 4, rel=0.2)


def test_a_column_of_one_entry_is_not_predicted_from_it_alone():
    rng = np.random.default_rng(0)
    whole = low_rank(40, 6, 2) + 0.1 * rng.standard_normal((40, 6))
    holes = with_holes(whole, 0.7)
    holes[:, 0] = np.nan
    holes[0, 0] = 5.0
    for settings in ({}, {"candidates": "low_rank"}):
        model = fit(holes, **settings)
        predicted = model.entries(np.arange(1, 40), np.zeros(39, int))
        assert np.abs(predicted).max() < 6
        lower, upper = model.intervals([1], [0])
        assert upper[0] - lower[0] > 2


def test_an_interrupted_fit_is_calibrated_and_saved_as_it_is(tmp_path):
    whole = np.random.default_rng(0).standard_normal((60, 4)) * [1, 1e6, 1, 1]

    def stop(record):
        if record.stage.startswith("posterior"):
            raise KeyboardInterrupt

    model = DeepMatrixCompletion(random_state=0, callbacks=[stop])
    with pytest.raises(KeyboardInterrupt):
        model.fit(with_holes(whole, 0.7))
    widths = np.diff(model.intervals([0] * 4, range(4), 0.8), axis=0)[0]
    assert widths[0] < 10 < 1e5 < widths[1]
    model.set_params(callbacks=None).save(tmp_path / "model.safetensors")
    loaded = DeepMatrixCompletion.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        loaded.intervals([0] * 4, range(4), 0.8), model.intervals([0] * 4, range(4), 0.8)
    )


def test_held_out_shares_are_those_asked_for():
    holes = with_holes(low_rank(30, 20, 2) + 0.1 * np.random.default_rng(0).standard_normal((30, 20)), 0.7)
    count = int((~np.isnan(holes)).sum())
    for share, folds in ((0.05, 3), (0.45, 2), (0.8, 1)):
        model = fit(holes, validation_fraction=share)
        assert {step["fold"] for step in model.path_} == set(range(folds))
        held_out = len(model.model_.calibration) / folds / count
        assert abs(held_out - max(share, 0.2)) < 0.05
    with pytest.raises(ValueError, match="overflow in float32; divide them"):
        fit((holes * 5e36).astype(np.float32))


def test_rows_to_learn_from_that_would_overflow_are_refused():
    rows = np.random.default_rng(0).normal(size=(40, 2)) @ np.random.default_rng(1).normal(size=(2, 10))
    model = fit(rows)
    before = model.model_
    with pytest.raises(ValueError, match="overflow in float64; divide them"):
        model.partial_fit(rows * 1e300)
    assert model.model_ is before
