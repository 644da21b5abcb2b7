"""xlsx: what a sheet holds is read, and what is written is read back."""

from __future__ import annotations

import sys
from datetime import datetime

import pandas as pd
import pytest

from corefold.errors import InputError
from corefold.tables.reading import read_table
from corefold.tables.writing import check_file, write_table


def test_cells_keep_their_types_and_texts_are_no_formulas(tmp_path):
    cells = ["007", 7, 1.5, True, None, "=1+1", datetime(2024, 1, 5), "ü\nx"]
    table = pd.DataFrame({"a": pd.Series(cells, dtype=object), "b": "x"})
    write_table(table, tmp_path / "t.xlsx")
    again = read_table(str(tmp_path / "t.xlsx"))["a"]
    assert [type(cell) for cell in again] == [type(cell) for cell in cells]
    assert again.tolist() == cells


def test_numbers_that_a_sheet_would_round_and_lists_are_texts(tmp_path):
    table = pd.DataFrame({"a": pd.Series([2**53 + 1, [1, "ü"], {"b": None}], dtype=object)})
    write_table(table, tmp_path / "t.xlsx")
    assert read_table(str(tmp_path / "t.xlsx"))["a"].tolist() == [
        "9007199254740993",
        '[1, "ü"]',
        '{"b": null}',
    ]


def test_empty_rows_and_columns_are_left_out(tmp_path):
    from openpyxl import Workbook

    book = Workbook()
    for row in (
        [None, None, None],
        ["text", "label", None],
        ["a", 1, None],
        [None, None, None],
        ["b", None, None],
    ):
        book.active.append(row)
    book.create_sheet("More")
    book.save(tmp_path / "t.xlsx")
    notes: list[str] = []
    table = read_table(str(tmp_path / "t.xlsx"), notes=notes)
    assert [note.partition(": ")[2] for note in notes] == [
        "only the first sheet is read, not 'More'; for these, save each as a file"
    ]
    assert table.to_dict("list") == {"text": ["a", "b"], "label": [1, None]}


@pytest.mark.parametrize(
    ("cell", "says"),
    [("x" * 32_768, "row 1: a cell of a sheet holds 32,767"), ("a\x01", "row 1: a sheet cannot hold")],
)
def test_what_a_sheet_cannot_hold_is_refused(tmp_path, cell, says):
    with pytest.raises(InputError, match=says):
        write_table(pd.DataFrame({"a": [cell]}), tmp_path / "t.xlsx")
    assert not list(tmp_path.iterdir())


def test_without_openpyxl_there_is_a_line_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "t.xlsx").write_text("")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError, match="xlsx files need openpyxl; install it"):
        read_table(str(tmp_path / "t.xlsx"))
    with pytest.raises(InputError, match="xlsx files need openpyxl"):
        check_file(tmp_path / "new.xlsx", False, (".xlsx",))


@pytest.mark.parametrize("place", ["A1", "B1", "B2", "B3"])
def test_a_formula_without_a_value_is_refused_by_its_cell(tmp_path, place):
    from openpyxl import Workbook

    book = Workbook()
    for row in (["a", "b"], ["x", 1], ["y", None]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    assert read_table(str(tmp_path / "t.xlsx"))["b"].tolist() == [1, None]
    book.active[place] = "=1+1"
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(
        InputError, match=rf"t\.xlsx: cell {place} holds the formula =1\+1 and no value; open the"
    ):
        read_table(str(tmp_path / "t.xlsx"))
