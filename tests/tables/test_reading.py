"""Every kind of file gives the same rows, and a bad one a single line that says what is wrong."""

from __future__ import annotations

import pandas as pd
import pytest

from corefold.errors import InputError
from corefold.tables.reading import read_table

TABLE = pd.DataFrame({"text": ["a,b", "None"], "label": [1, 2]})


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".CSV"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    match suffix:
        case ".tsv":
            TABLE.to_csv(path, index=False, sep="\t")
        case ".jsonl":
            TABLE.to_json(path, orient="records", lines=True)
        case ".parquet":
            TABLE.to_parquet(path, index=False)
        case _:
            TABLE.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_table(str(path)), TABLE)


def test_only_an_empty_cell_is_missing(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\nNA,\nnull,2\n")
    table = read_table(str(tmp_path / "t.csv"))
    assert list(table["a"]) == ["NA", "null"]
    assert list(table["b"].isna()) == [True, False]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.csv", "", "is empty; expected a header and rows"),
        ("t.csv", "a,b\n", "has no rows"),
        ("t.csv", "a,b\n1,2,3\n4,5,6\n", "more cells than the header"),
        ("t.csv", 'a,b\n"1,2\n', "cannot be read"),
        ("t.jsonl", "{", "cannot be read"),
        ("t.parquet", "junk", "cannot be read"),
        ("t.xlsx", "junk", r"expected one of \.csv, \.tsv, \.jsonl, \.parquet"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says) as refusal:
        read_table(str(tmp_path / name))
    assert str(refusal.value).startswith(str(tmp_path / name))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [("nowhere.csv", "no such file"), ("nowhere", "no such file; a hub data set is written NAME:SPLIT")],
)
def test_what_is_not_there_is_refused(source, says):
    with pytest.raises(InputError, match=says):
        read_table(source)
