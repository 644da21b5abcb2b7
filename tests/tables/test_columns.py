"""Cells as numbers and labels, and the row that an unusable one stands in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from corefold.errors import InputError
from corefold.tables.columns import (
    finite_numbers,
    label_text,
    numbers_with_gaps,
    require_columns,
    require_filled,
)


def column(*cells: object) -> pd.Series:
    return pd.Series(cells, name="rating")


def test_a_missing_column_is_named_beside_those_that_exist():
    table = pd.DataFrame({"a": [1], "b": [2]})
    require_columns(table, ["b", "a"], "t.csv")
    with pytest.raises(InputError, match=r"^t\.csv has no column 'c'; it has a, b$"):
        require_columns(table, ["a", "c"], "t.csv")


def test_a_missing_cell_is_named_by_its_row():
    require_filled(column("x", ""), "t.csv")
    with pytest.raises(InputError, match=r"^t\.csv, row 2: column 'rating' is empty \(2 such rows\)$"):
        require_filled(column("x", None, "y", np.nan), "t.csv")


def test_finite_numbers():
    assert list(finite_numbers(column("1", 2.5, " 3 "), "t.csv")) == [1.0, 2.5, 3.0]
    for cell, shown in (("good", "'good'"), (np.inf, "inf"), (None, "None")):
        with pytest.raises(
            InputError, match=f"^t.csv, row 2: {shown} in column 'rating' is not a finite number$"
        ):
            finite_numbers(pd.Series(["1", cell], name="rating", dtype=object), "t.csv")


def test_numbers_with_gaps():
    expected = [1.0, np.nan, 2.5]
    for cells in ((1.0, np.nan, 2.5), ("1", " NA ", "2.5"), ("1", None, 2.5), ("1", "", "2.5")):
        np.testing.assert_array_equal(numbers_with_gaps(column(*cells), "t.csv"), expected)
    nullable = pd.Series([1.0, None, 2.5], dtype="Float64")
    np.testing.assert_array_equal(numbers_with_gaps(nullable, "t.csv"), expected)
    for cell, says in (("good", "'good' in column 'rating' is not a number"), ("inf", "is infinite")):
        with pytest.raises(InputError, match=f"^t.csv, row 3: .*{says}$"):
            numbers_with_gaps(column("1", "NA", cell), "t.csv")


@pytest.mark.parametrize(
    ("label", "text"),
    [(1, "1"), (1.0, "1"), (np.float64(-2), "-2"), (1.5, "1.5"), (np.nan, "nan"), (np.inf, "inf"),
     ("1.0", "1.0"), (True, "True")],
)  # fmt: skip
def test_a_label_is_the_same_text_in_a_column_with_a_gap(label, text):
    assert label_text(label) == text
