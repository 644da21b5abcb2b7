"""Cells as numbers and labels, and the row that an unusable one stands in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from corefold.errors import InputError
from corefold.tables.columns import (
    as_number,
    empty_cells,
    finite_numbers,
    label_text,
    numbers_with_gaps,
    require_columns,
    require_filled,
    require_scalars,
    require_text,
    text_cells,
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


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u00a0", None, np.nan, pd.NA])
def test_a_text_of_blanks_is_as_good_as_none(blank):
    cells = pd.Series(["a", blank, " b "], name="rating", dtype=object)
    assert empty_cells(cells).tolist() == [False, True, False]
    with pytest.raises(InputError, match=r"^t\.csv, row 2: column 'rating' is empty \(1 such rows\)$"):
        require_text(cells, "t.csv")


def test_empty_rows_are_listed_up_to_a_few_and_counted_through_chunks():
    cells = column("a", *[""] * 6).set_axis(pd.RangeIndex(10, 17), axis=0)
    with pytest.raises(InputError, match=r"row 12: .* \(6 such rows: 12, 13, 14, 15, 16, \.\.\.\)$"):
        require_text(cells, "t.csv")
    require_text(column("a", 0, False), "t.csv")


@pytest.mark.parametrize(
    ("cell", "kind"),
    [(["a"], "a list"), ((1,), "a list"), (np.zeros(1), "a list"), ({"a": 1}, "an object"), (b"a", "bytes")],
)
def test_a_cell_of_several_values_is_named_by_its_row(cell, kind):
    cells = pd.Series(["a", cell], name="rating", dtype=object)
    with pytest.raises(
        InputError, match=rf"^t\.csv, row 2: column 'rating' holds {kind}; expected a text or a number"
    ):
        require_scalars(cells, "t.csv")
    require_scalars(pd.Series(["a", 1, None, True], dtype=object), "t.csv")


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(InputError, match=r"^t\.csv, row 2: column 'rating' holds half of a surrogate pair"):
        text_cells(pd.Series(["\U0001f600", "\ud83d"], name="rating", dtype=object), "t.csv")


@pytest.mark.parametrize(
    ("cell", "number"),
    [("1", 1), ("-1.50", -1.5), (" 2e3 ", 2000), (".5", 0.5), (7, 7), (np.float64(1.5), 1.5), ("²", None), ("①", None),
     ("--1", None), ("1_0", None), ("nan", None), ("inf", None), ("0x1", None), ("١", None), (True, None), ("", None)],
)  # fmt: skip
def test_a_number_is_one_that_is_spelled_in_plain_digits(cell, number):
    assert as_number(cell) == number


def test_finite_numbers():
    assert list(finite_numbers(column("1", 2.5, " 3 ", True), "t.csv")) == [1.0, 2.5, 3.0, 1.0]
    for cell, shown in (("good", "'good'"), (np.inf, "inf"), (None, "None"), (10**400, "1000")):
        with pytest.raises(
            InputError, match=f"^t.csv, row 2: {shown}0* in column 'rating' is not a finite number$"
        ):
            finite_numbers(pd.Series(["1", cell], name="rating", dtype=object), "t.csv")
    with pytest.raises(
        InputError, match=r"'1,5' .* is not a finite number; write numbers with a decimal point$"
    ):
        finite_numbers(pd.Series(["1", "1,5"], name="rating", dtype=object), "t.csv")


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
