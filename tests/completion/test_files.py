"""Matrices in files: labels, places and arrays as they were, and the predictions that are written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from observations import fitted, low_rank, with_holes

from corefold.completion import DeepMatrixCompletion
from corefold.completion.files.frames import matrix_of_entries
from corefold.completion.files.labelled import LabelledMatrix
from corefold.completion.files.places import Places
from corefold.completion.files.reading import read_matrix, read_places
from corefold.completion.files.results import filled_matrix, ranked_entries, row_blocks, single_entries
from corefold.completion.files.writing import write_filled
from corefold.errors import InputError

WHOLE = low_rank(12, 8, 2)
HOLES = with_holes(WHOLE, 0.7)


@pytest.fixture
def matrix(tmp_path) -> LabelledMatrix:
    np.savez(
        tmp_path / "m.npz",
        matrix=HOLES,
        row_labels=[f"r{i}" for i in range(12)],
        column_labels=np.arange(100, 108),
    )
    return read_matrix(tmp_path / "m.npz", None, None, None)


@pytest.fixture
def estimator(matrix) -> DeepMatrixCompletion:
    return DeepMatrixCompletion(2, random_state=0).fit(matrix.observed)


def test_labels_are_sorted_and_numbers_beside_words_are_text():
    table = pd.DataFrame({"user": ["b", 2, "a", 2], "item": [7, 5, 5, 7], "rating": [1.0, 2.0, 3.0, None]})
    matrix = matrix_of_entries(table, ("user", "item", "rating"), "t.csv")
    assert [*matrix.rows] == ["2", "a", "b"]
    assert [*matrix.columns] == [5, 7]
    assert matrix.observed.row_of().tolist() == [0, 1, 2]
    assert matrix.observed.values.tolist() == [2.0, 3.0, 1.0]


def test_an_npz_file_keeps_its_labels(matrix, tmp_path):
    write_filled(np.nan_to_num(HOLES), matrix, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["row_labels"], matrix.rows)
        np.testing.assert_array_equal(arrays["column_labels"], matrix.columns)
        np.testing.assert_array_equal(arrays["matrix"], np.nan_to_num(HOLES))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"rows": [0], "columns": [0], "values": [1.0], "shape": [3, 3, 3]}, "shape must be two numbers"),
        ({"matrix": [[1.0, np.nan]], "row_labels": ["a", "b"]}, r"row_labels must have the shape \(1,\)"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(tmp_path, arrays, says):
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(InputError, match=says):
        read_matrix(tmp_path / "m.npz", None, None, None)


def test_places_are_found_by_label(matrix, tmp_path):
    pd.DataFrame({"col": [107.0, 100.0], "row": ["r3", "r0"], "other": 1}).to_csv(tmp_path / "p.csv")
    places = read_places(tmp_path / "p.csv", matrix)
    assert list(places.labels.columns) == ["row", "col"]
    assert (places.rows.tolist(), places.columns.tolist()) == ([3, 0], [7, 0])
    assert "'107.0' as '107'" in places.notes[0]


def test_rows_in_blocks_are_the_fitted_matrix(matrix, estimator):
    blocks = list(row_blocks(estimator, entries=5 * 8))
    assert [rows.stop - rows.start for rows, _ in blocks] == [5, 5, 2]
    expected = fitted(estimator, HOLES.shape)
    np.testing.assert_allclose(np.concatenate([part for _, part in blocks]), expected, rtol=1e-12)
    filled = filled_matrix(estimator, matrix.observed)
    np.testing.assert_array_equal(filled, np.where(np.isnan(HOLES), filled, HOLES))
    np.testing.assert_allclose(filled, np.where(np.isnan(HOLES), expected, HOLES), rtol=1e-12)


def test_more_than_there_are_ranks_all_that_are_missing(matrix, estimator):
    ranked = ranked_entries(estimator, matrix, 100)
    assert len(ranked) == np.isnan(HOLES).sum()
    for label, part in ranked.groupby("row"):
        assert part["value"].is_monotonic_decreasing
        missing = np.flatnonzero(np.isnan(HOLES[int(label[1:])]))
        assert sorted(part["col"] - 100) == list(missing)


def test_without_entries_held_out_there_is_a_reason_in_place_of_intervals(matrix):
    exact = DeepMatrixCompletion(2, validation_fraction=0, random_state=0).fit(matrix.observed)
    labels = pd.DataFrame({"row": ["r1"], "col": [101]})
    table, reason = single_entries(exact, matrix, Places(labels, np.array([1]), np.array([1])))
    assert reason is not None
    assert "validation_fraction" in reason
    assert table[["lower", "upper"]].isna().all(axis=None)
    np.testing.assert_allclose(table["value"], exact.entries([1], [1]))
