"""Samples of completed matrices: what they hold, the forms of input and output, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from observations import low_rank, with_holes
from sklearn.exceptions import NotFittedError

from corefold.completion import DeepMatrixCompletion

NOISE = 0.4
WHOLE = low_rank(150, 60, 3) + NOISE * np.random.default_rng(1).standard_normal((150, 60))
HOLES = with_holes(WHOLE, 0.6)
HIDDEN = np.isnan(HOLES)
ROWS, COLUMNS = HIDDEN.nonzero()
SMALL = HOLES[:40, :12]


def estimator(**settings):
    return DeepMatrixCompletion(**{"max_rank": 6, "random_state": 0, "candidates": "low_rank", **settings})


@pytest.fixture(scope="module")
def model():
    return estimator(validation_fraction=0.2).fit(HOLES)


@pytest.fixture(scope="module")
def samples(model):
    return model.sample(200, random_state=0)


def test_observed_entries_stay_and_the_others_vary_around_predictions(model, samples):
    assert samples.shape == (200, *HOLES.shape)
    assert (samples[:, ~HIDDEN] == HOLES[~HIDDEN]).all()
    drawn = samples[:, HIDDEN]
    z = (drawn.mean(0) - model.transform(HOLES)[HIDDEN]) / (drawn.std(0) / np.sqrt(200))
    assert abs(z.mean()) < 0.1
    assert 0.9 < z.std() < 1.15
    assert NOISE < np.sqrt(drawn.var(0).mean()) < 1.15 * NOISE  # the noise, and doubt of the matrix


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_intervals_hold_their_share_of_draws_and_draws_of_the_truth(model, samples, coverage):
    drawn, truth = samples[:, HIDDEN], WHOLE[HIDDEN]
    lower, upper = model.intervals(ROWS, COLUMNS, coverage)
    assert abs(((lower <= drawn) & (drawn <= upper)).mean() - coverage) < 0.015
    low, high = np.quantile(drawn, [(1 - coverage) / 2, (1 + coverage) / 2], axis=0)
    assert abs(((low <= truth) & (truth <= high)).mean() - coverage) < 0.035


def test_a_seed_decides_and_the_streams_of_others_stay(model):
    state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    once, again, other = (model.sample(2, SMALL_X, random_state=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (once[:, np.isnan(SMALL_X)] != other[:, np.isnan(SMALL_X)]).all()
    assert (once[0] != once[1])[np.isnan(SMALL_X)].all()
    assert (np.random.get_state()[1] == state[0]).all()
    assert torch.equal(torch.random.get_rng_state(), state[1])


SMALL_X = HOLES[:5]


def test_single_entries_are_drawn_as_in_whole_matrices(model, samples):
    rows, columns = np.array([9, 2, 2, 9, 140]), np.array([3, 50, 4, 3, 59])
    rows[-1], columns[-1] = ROWS[-1], COLUMNS[-1]
    drawn = model.sample(200, at=(rows, columns), random_state=1)
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 3])  # the same entry
    missing = HIDDEN[rows, columns]
    assert missing.any()
    assert not missing.all()
    assert (drawn[:, ~missing] == HOLES[rows, columns][~missing]).all()
    whole = samples[:, rows, columns][:, missing]
    off = (drawn[:, missing].mean(0) - whole.mean(0)) / whole.std(0)
    assert np.abs(off).max() < 0.35
    assert np.abs(np.log(drawn[:, missing].std(0) / whole.std(0))).max() < 0.2


def test_frames_keep_labels_and_types():
    whole = np.round(WHOLE[:60, :6] * 10)
    holes = with_holes(whole, 0.7)
    holes[:, 0] = whole[:, 0]
    frame = pd.DataFrame(holes, columns=[*"abcdef"], index=[f"r{place}" for place in range(60)])
    types = {"a": "int16", "b": "float32", "c": "Int64", "d": "float64", "e": "Float64", "f": "float64"}
    frame = frame.astype(types)
    for X in (frame, None):
        drawn = estimator(max_rank=2).fit(frame).sample(3, X, random_state=0)
        assert [type(each) for each in drawn] == [pd.DataFrame] * 3
        for each in drawn:
            assert list(each.index) == list(frame.index)
            assert {name: str(dtype) for name, dtype in each.dtypes.items()} == {**types, "c": "float64"}
            assert not each.isna().to_numpy().any()
            pd.testing.assert_series_equal(each["a"], frame["a"])
            kept = each.where(frame.notna()).astype(float).to_numpy()
            np.testing.assert_array_equal(kept, frame.astype(float).to_numpy())
        assert not drawn[0]["d"].equals(drawn[1]["d"])


def test_labels_name_entries():
    rows, columns = (~np.isnan(SMALL)).nonzero()
    long = pd.DataFrame(
        {"user": [f"u{row:02}" for row in rows], "item": columns + 100, "value": SMALL[rows, columns]}
    )
    model = estimator(max_rank=2).fit(long, columns=("user", "item", "value"))
    drawn = model.sample(4, at=(["u03", "u00"], [104, 100 + columns[0]]), random_state=0)
    assert (drawn[:, 1] == SMALL[0, columns[0]]).all()
    assert model.sample(2, random_state=0).shape == (2, *SMALL.shape)
    with pytest.raises(ValueError, match="the column 9 is not in the data; entries predicts it by means"):
        model.sample(1, at=(["u03"], [9]))


def test_new_rows_files_batches_and_warm_starts(model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    loaded = DeepMatrixCompletion.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(loaded.sample(2, HOLES, random_state=3), model.sample(2, random_state=3))
    with pytest.raises(
        ValueError, match=r"a file holds no observed values; give sample the rows .*sample\(n, X\)"
    ):
        loaded.sample(2)
    new = with_holes(low_rank(150, 60, 3)[:7], 0.5)
    assert (loaded.sample(2, new)[:, ~np.isnan(new)] == new[~np.isnan(new)]).all()
    grown = estimator().fit(HOLES[:100]).partial_fit(HOLES[100:])
    drawn = grown.sample(50, random_state=0)
    assert drawn.shape == (50, 50, 60)
    errors = (drawn.mean(0) - WHOLE[100:])[HIDDEN[100:]]
    assert 0.8 < np.sqrt(drawn.var(0)[HIDDEN[100:]].mean() / np.mean(errors**2)) < 1.25
    grown.save(tmp_path / "grown.safetensors")
    again = DeepMatrixCompletion.load(tmp_path / "grown.safetensors").sample(50, HOLES[100:], random_state=0)
    np.testing.assert_array_equal(again, drawn)
    warm = estimator(warm_start=True).fit(HOLES)
    assert np.isfinite(warm.fit(HOLES).sample(1, random_state=0)).all()


@pytest.mark.parametrize("settings", [{"solver": "als"}, {"candidates": "all"}, {"dtype": "float32"}])
def test_every_fit_gives_samples(settings):
    model = estimator(max_rank=3, **settings).fit(SMALL)
    drawn = model.sample(400, random_state=0)
    assert drawn.dtype == (np.float32 if "dtype" in settings else np.float64)
    lower, upper = model.intervals(*np.isnan(SMALL).nonzero(), 0.8)
    drawn = drawn[:, np.isnan(SMALL)]
    assert abs(((lower <= drawn) & (drawn <= upper)).mean() - 0.8) < 0.06


@pytest.mark.filterwarnings("ignore:.*no observed entry")
def test_features_predict_what_draws_vary_around(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((80, 2))
    whole = 3 * features @ rng.standard_normal((2, 12)) + 0.3 * rng.standard_normal((80, 12))
    holes = with_holes(whole, 0.6)
    holes[5] = np.nan
    model = DeepMatrixCompletion(random_state=0).fit(holes, row_features=features)
    drawn, hidden = model.sample(150, random_state=0), np.isnan(holes)
    predicted = model.transform(holes, row_features=features)
    z = (drawn.mean(0) - predicted)[hidden] / (drawn.std(0)[hidden] / np.sqrt(150))
    assert np.abs(z.mean()) < 0.2
    assert np.sqrt(np.mean((drawn.mean(0) - whole)[5] ** 2)) < 0.6 * whole[5].std()
    model.save(tmp_path / "m.safetensors")
    loaded = DeepMatrixCompletion.load(tmp_path / "m.safetensors")
    again = loaded.sample(2, holes, row_features=features, random_state=3)
    np.testing.assert_allclose(again, model.sample(2, random_state=3), rtol=1e-9)
    with pytest.raises(ValueError, match="row_features goes with X"):
        model.sample(1, row_features=features)
    with pytest.warns(UserWarning, match="average ones"):
        model.sample(1, holes)


def test_bounds_hold():
    stars = with_holes(np.clip(np.round(WHOLE[:60, :30] * 2 + 3), 1, 5), 0.6)
    drawn = estimator().fit(stars).sample(20, random_state=0)
    assert drawn.min() == 1
    assert drawn.max() == 5


def test_entries_without_a_row_or_a_column_are_as_far_off_as_means():
    holes = HOLES + 5
    holes[4], holes[:, 7] = np.nan, np.nan
    with pytest.warns(UserWarning, match="no observed entry"):
        model = estimator(clip=None).fit(holes)
    rows, columns = np.array([4] * 5 + [*range(10, 15)]), np.array([*range(10, 15)] + [7] * 5)
    drawn = model.sample(1500, at=(rows, columns), random_state=0)
    for coverage in (0.5, 0.9):
        lower, upper = model.intervals(rows, columns, coverage)
        share = ((lower <= drawn) & (drawn <= upper)).mean(0)
        np.testing.assert_allclose(share, coverage, atol=0.045)


def test_what_is_refused(model, tmp_path):
    with pytest.raises(NotFittedError):
        estimator().sample(1)
    for n in (0, -1, True):
        with pytest.raises(ValueError, match="n must be an integer of 1 or more"):
            model.sample(n)
    with pytest.raises(
        ValueError, match="more held-out entries than 0; fit with a larger validation_fraction"
    ):
        estimator(validation_fraction=0).fit(HOLES).sample(1)
    with pytest.raises(MemoryError, match=r"GiB.*sample\(n, at=\(rows, columns\)\) draws single entries"):
        model.sample(10**12)
    with pytest.raises(MemoryError, match=r"draws of 1 entries would take .* GiB.*; draw fewer"):
        model.sample(10**12, at=([0], [1]))
    with pytest.raises(ValueError, match="at takes as many rows as columns; got 1 and 2"):
        model.sample(1, at=([0], [1, 2]))
    with pytest.raises(ValueError, match=r"at must be \(rows, columns\)"):
        model.sample(1, at=np.zeros(3))
    with pytest.raises(ValueError, match="rows must lie between 0 and 149"):
        model.sample(1, at=([150], [0]))
    with pytest.raises(ValueError, match="mask goes with X"):
        model.sample(1, mask=HIDDEN)
    old = DeepMatrixCompletion.load(Path(__file__).parents[1] / "artefacts/completion/model.safetensors")
    with pytest.raises(ValueError, match="of an older version, does not say enough of errors; fit again"):
        old.sample(1, np.zeros((1, old.n_features_in_)))
    alone = copy.copy(model)
    alone.distributed = True
    with pytest.raises(ValueError, match="sample works in one process"):
        alone.sample(1)
