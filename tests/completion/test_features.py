"""Side information: what features explain, rows and columns without an entry, and tables that do not fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from corefold.completion import DeepMatrixCompletion
from corefold.completion.biases import Biases
from corefold.completion.distributed import RowPartition
from corefold.completion.entries import observed_entries
from corefold.completion.feature_effects import Features, fit
from corefold.completion.feature_encoding import FeatureEncoder
from corefold.completion.feature_tables import FeatureTable

pytestmark = pytest.mark.filterwarnings("ignore:.*have no observed entry")

HEIGHT, WIDTH, COLD = 150, 60, 15
STREAM = np.random.default_rng(0)
OF_ROWS, OF_COLUMNS = STREAM.normal(size=(HEIGHT, 3)), STREAM.normal(size=(WIDTH, 2))
WHOLE = 3 + (OF_ROWS @ [0.5, 0.2, 0.0])[:, None] + OF_ROWS @ (0.8 * STREAM.normal(size=(3, WIDTH)))
WHOLE += STREAM.normal(size=(HEIGHT, 2)) @ OF_COLUMNS.T + 0.5 * STREAM.normal(size=(HEIGHT, WIDTH))
SEEN = STREAM.random(WHOLE.shape) < 0.3
SEEN[:COLD], SEEN[:, :8] = False, False
HOLES = np.where(SEEN, WHOLE, np.nan)
FEATURES = Features(torch.from_numpy(OF_ROWS), torch.from_numpy(OF_COLUMNS))


@pytest.fixture(scope="module")
def fitted():
    return DeepMatrixCompletion(random_state=0).fit(HOLES, row_features=OF_ROWS, column_features=OF_COLUMNS)


def rmse(predicted, where):
    return float(np.sqrt(np.mean((predicted - WHOLE)[where] ** 2)))


def all_entries(model):
    rows, columns = np.indices(WHOLE.shape).reshape(2, -1)
    return model.entries(rows, columns).reshape(WHOLE.shape)


def test_alternating_regressions_end_at_the_solution_of_all_coefficients_at_once():
    observed = observed_entries(HOLES)
    biases = fit(observed, FEATURES, sweeps=400)
    effects = biases.effects
    assert effects is not None
    rows, columns = observed.row_of().long(), observed.columns.long()
    common = biases.mean + (FEATURES.rows @ effects.row_prior)[rows]
    common += (FEATURES.columns @ effects.column_prior)[columns]
    by_row = torch.cat([torch.ones(WIDTH, 1), FEATURES.columns], 1)[columns]
    by_column = torch.cat([torch.ones(HEIGHT, 1), FEATURES.rows], 1)[rows]
    design = torch.zeros(len(observed), 3 * HEIGHT + 4 * WIDTH, dtype=torch.float64)
    entry = torch.arange(len(observed))[:, None]
    design[entry, 3 * rows[:, None] + torch.arange(3)] = by_row
    design[entry, 3 * HEIGHT + 4 * columns[:, None] + torch.arange(4)] = by_column
    ridge = torch.cat(
        [
            torch.tensor([biases.shrinkage.row, *[effects.ridge] * 2]).repeat(HEIGHT),
            torch.tensor([biases.shrinkage.column, *[effects.column_ridge] * 3]).repeat(WIDTH),
        ]
    ).double()
    right = design.mT @ (observed.values - common)
    expected = common + design @ torch.linalg.solve(design.mT @ design + ridge.diag(), right)
    torch.testing.assert_close(biases.at(observed), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(fit(observed, FEATURES).at(observed), expected, rtol=0, atol=0.1)


def test_without_features_nothing_but_biases_is_left():
    observed = observed_entries(HOLES)
    none = Features(torch.zeros(HEIGHT, 0).double(), torch.zeros(WIDTH, 0).double())
    plain, featured = Biases.fit(observed, RowPartition()), fit(observed, none)
    torch.testing.assert_close(featured.at(observed), plain.at(observed), rtol=0, atol=0.1)


def test_features_predict_cold_rows_and_columns_and_help_the_others(fitted):
    without = DeepMatrixCompletion(random_state=0).fit(HOLES)
    ours, theirs = all_entries(fitted), all_entries(without)
    cold_row, cold_column = np.zeros_like(SEEN), np.zeros_like(SEEN)
    cold_row[:COLD, 8:], cold_column[COLD:, :8] = True, True
    warm = ~SEEN & ~cold_row & ~cold_column
    warm[:COLD] = False
    for where, share in ((cold_row, 0.85), (cold_column, 0.9), (warm, 0.9)):
        assert rmse(ours, where) < share * rmse(theirs, where)
    lower, upper = (
        end.reshape(WHOLE.shape) for end in fitted.intervals(*np.indices(WHOLE.shape).reshape(2, -1))
    )
    inside = (lower <= WHOLE) & (upper >= WHOLE)
    for where in (cold_row, cold_column, warm):
        # The errors of few cold rows depend on each other: over 8 draws of the data .82 to .94, on average .87.
        assert 0.78 < inside[where].mean() < 0.98


def test_rows_to_come_are_predicted_from_their_features_and_entries(fitted):
    again = fitted.transform(HOLES, row_features=OF_ROWS)
    np.testing.assert_allclose(again[:COLD], all_entries(fitted)[:COLD], atol=1e-9)
    assert rmse(again, ~SEEN) < 1.02 * rmse(all_entries(fitted), ~SEEN)
    with pytest.warns(UserWarning, match="without row_features are taken for average"):
        average = fitted.transform(HOLES)
    assert np.ptp(average[:COLD], axis=0).max() < 1e-9  # all alike


def test_a_loaded_estimator_predicts_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "saved.safetensors")
    loaded = DeepMatrixCompletion.load(tmp_path / "saved.safetensors")
    np.testing.assert_array_equal(all_entries(loaded), all_entries(fitted))
    np.testing.assert_array_equal(
        loaded.transform(HOLES, row_features=OF_ROWS), fitted.transform(HOLES, row_features=OF_ROWS)
    )
    with pytest.raises(ValueError, match="partial_fit knows no features"):
        loaded.partial_fit(HOLES)


def test_labels_that_only_features_have_become_rows_and_columns():
    rows, columns = np.nonzero(SEEN)
    users, items = np.array([f"u{i:03}" for i in range(HEIGHT)]), np.array([f"i{i}" for i in range(WIDTH)])
    frame = pd.DataFrame({"user": users[rows], "item": items[columns], "rating": WHOLE[SEEN]})
    of_users = pd.DataFrame(OF_ROWS, index=users).sample(frac=1, random_state=0)
    model = DeepMatrixCompletion(random_state=0, candidates="low_rank").fit(
        frame, columns=("user", "item", "rating"), row_features=of_users
    )
    assert len(model.row_labels_) == HEIGHT
    assert len(model.column_labels_) == WIDTH - 8
    cold = model.entries(["u000"] * (WIDTH - 8), items[8:])
    assert np.sqrt(np.mean((cold - WHOLE[0, 8:]) ** 2)) < np.sqrt(
        np.mean((WHOLE[0, 8:] - np.nanmean(HOLES[:, 8:], 0)) ** 2)
    )
    recommended, _ = model.recommend(["u000"], 3)
    assert recommended.shape == (1, 3)
    with pytest.warns(UserWarning, match="1 of 150 rows are not in row_features, the first is 'u020'"):
        # With the labels that only the features have, without u020.
        DeepMatrixCompletion(max_iter=2).fit(
            frame, columns=("user", "item", "rating"), row_features=of_users.drop("u020")
        )


def test_frames_are_matched_by_their_index():
    frame = pd.DataFrame(HOLES, index=[f"r{i}" for i in range(HEIGHT)])
    shuffled = pd.DataFrame(OF_ROWS, index=frame.index).sample(frac=1, random_state=0)
    by_label = DeepMatrixCompletion(max_iter=5, random_state=0, candidates="low_rank").fit(
        frame, row_features=shuffled
    )
    by_place = DeepMatrixCompletion(max_iter=5, random_state=0, candidates="low_rank").fit(
        HOLES, row_features=OF_ROWS
    )
    np.testing.assert_allclose(all_entries(by_label), all_entries(by_place), atol=1e-7)


def test_words_are_categories_and_missing_cells_average():
    frame = pd.DataFrame(
        {
            "job": ["cook", "cook", "smith", None, "smith", "mayor"],
            "age": [20.0, 30.0, np.nan, 40.0, 50.0, 60.0],
            "same": [1] * 6,
            "member": [True, False, True, True, True, True],
        }
    )
    with pytest.warns(UserWarning, match="left out 'same'"):
        encoder = FeatureEncoder.of(FeatureTable.of("row", frame), 5)
    again = FeatureEncoder.from_plain(encoder.to_plain())
    assert [column.name for column in again.columns] == ["job", "age", "member"]
    assert again.columns[0].categories == ("cook", "smith")
    numbers = again.columns[0].encoded(FeatureTable.of("row", frame).columns[0])
    np.testing.assert_array_equal(numbers[3], [0, 0])
    np.testing.assert_allclose(numbers[5], [-0.8, -0.8])  # a known one that is neither
    assert again.columns[1].encoded(FeatureTable.of("row", frame).columns[1])[2] == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"row_features": OF_ROWS[:-1]}, "a line for each of the 150 rows; got 149"),
        ({"column_features": OF_COLUMNS.T}, "a line for each of the 60 columns; got 2"),
        (
            {"row_features": OF_ROWS[:, 0]},
            r"a matrix with a line for each row; got ndarray of shape \(150,\)",
        ),
        ({"row_features": np.ones((HEIGHT, 2))}, "says nothing"),
        ({"row_features": np.where(OF_ROWS > 2, np.inf, OF_ROWS)}, "infinity"),
        ({"row_features": OF_ROWS[:, :0]}, "no column"),
    ],
)
def test_features_of_another_matrix_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        DeepMatrixCompletion().fit(HOLES, **given)


def test_frames_of_other_labels_are_refused():
    frame = pd.DataFrame(HOLES, index=[f"r{i}" for i in range(HEIGHT)])
    with pytest.raises(ValueError, match="no row of the data is in the index of row_features: 'r0'"):
        DeepMatrixCompletion().fit(frame, row_features=pd.DataFrame(OF_ROWS))
    rows, columns = SEEN.nonzero()
    labelled = (rows.astype(str), columns.astype(str), WHOLE[SEEN])
    with pytest.raises(ValueError, match="must be a frame with these as its index"):
        DeepMatrixCompletion().fit(labelled, row_features=OF_ROWS)
    twice = pd.DataFrame(OF_ROWS, index=["20"] * HEIGHT)
    with pytest.raises(ValueError, match="has the label '20' twice"):
        DeepMatrixCompletion().fit(labelled, row_features=twice)


def test_features_that_the_fit_had_or_had_not(fitted):
    plain = DeepMatrixCompletion(max_iter=2).fit(HOLES[COLD:, 8:])
    with pytest.raises(ValueError, match="fitted without any"):
        plain.transform(HOLES[COLD:, 8:], row_features=OF_ROWS[COLD:])
    with pytest.raises(ValueError, match="row_features has no column '2'; the fit had one"):
        fitted.transform(HOLES, row_features=OF_ROWS[:, :2])


@pytest.mark.parametrize("options", [{"mask": SEEN}, {"row_features": OF_ROWS}])
def test_fit_transform_is_fit_and_transform_with_the_same_options(options):
    X = np.where(SEEN, WHOLE, -999.0) if "mask" in options else HOLES
    filled = DeepMatrixCompletion(max_iter=5, random_state=0, candidates="low_rank").fit_transform(
        X, **options
    )
    model = DeepMatrixCompletion(max_iter=5, random_state=0, candidates="low_rank").fit(X, **options)
    np.testing.assert_array_equal(filled, model.transform(X, **options))
    assert filled.min() > -100
