"""What was read is written back unchanged, in one go or in chunks."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corefold.errors import InputError
from corefold.tables.reading import read_table
from corefold.tables.table_writer import TableWriter
from corefold.tables.writing import TABLE_SUFFIXES, write_table


def write_parts(path, *parts):
    with TableWriter(path) as writer:
        for part in parts:
            writer.write(pd.DataFrame(part))


def copied(path, name):
    """The file after it was read and written."""
    write_table(read_table(str(path)), path.with_name(name))
    return path.with_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "id,date,ok\n00123,2024-01-05,TRUE\n9007199254740993,01/02/03,1.10\nNA,,None\n",
        'text,n\n"a,b",1\n"say ""hi""",\n"two\nlines",3\nit\'s,-0\n',
        ',text , label,,\n0,a, pos,,\n"",b,neg,,\n',
        "only\n1\n",
        "a,b\n padded ,\u00a0\n",
    ],
)
def test_a_csv_is_copied_byte_for_byte(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert (
        copied(path, "copy.csv").read_text(encoding="utf-8") == text.replace('""', "")
        if '\n"",' in text
        else text
    )


def test_a_carriage_return_in_a_csv_stays_in_its_cell(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\n"one\rtwo",1\n"three\r\nfour",2\n')
    again = read_table(str(copied(path, "copy.csv")))
    assert again.to_dict("list") == {"a": ["one\rtwo", "three\r\nfour"], "b": ["1", "2"]}


def test_a_tsv_is_copied_byte_for_byte(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(b'text\tid\n"stray\t007\n"quoted"\tTRUE\n,\\ \'\t\n')
    assert copied(path, "copy.tsv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("cell", ["a\tb", "a\nb", "a\rb"])
def test_a_cell_that_a_tsv_cannot_hold_is_refused_by_its_row(tmp_path, cell):
    with pytest.raises(InputError, match=r"t\.tsv, row 4: column 'text' holds a tab or a line end"):
        write_parts(tmp_path / "t.tsv", {"text": ["a", "b"]}, {"text": ["c", cell]})
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="holds a tab"):
        write_parts(tmp_path / "t.tsv", {cell: ["a"]})
    with pytest.raises(InputError, match="row 1"):
        TableWriter(tmp_path / "t.tsv").check(pd.DataFrame({"text": [cell]}))


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_a_jsonl_is_copied_value_for_value(tmp_path, name):
    lines = [
        {"id": "00123", "date": "2024-01-05", "timestamp": 1700000000, "big": 2**60 + 1, "x": 1.0},
        {"id": 7, "none": None, "list": [1, None, {"a": []}], "object": {"b": 1.5}, "yes": True},
        {"id": 10**30, "text": "ü \ud83d\ude00 \u2028", "1": 0},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    copied(path, "copy.jsonl")
    again = [
        json.loads(line) for line in (tmp_path / "copy.jsonl").read_text(encoding="utf-8").split("\n") if line
    ]
    assert [json.dumps(line, sort_keys=True) for line in again] == [
        json.dumps(line, sort_keys=True) for line in lines
    ]


def test_half_a_surrogate_pair_is_written_as_it_was_or_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "\\ud83d"}\n')
    assert copied(path, "copy.jsonl").read_text() == path.read_text()
    with pytest.raises(InputError, match="half of a surrogate pair"):
        copied(path, "copy.csv")


def test_a_parquet_is_copied_with_its_types(tmp_path):
    columns = {
        "id": pa.array([2**53 + 1, None]),
        "day": pa.array([19000, None], pa.date32()),
        "time": pa.array([1, None], pa.timestamp("us", "Europe/Berlin")),
        "list": pa.array([[1, None], None]),
        "object": pa.array([{"a": 1}, None]),
        "small": pa.array([0.1, None], pa.float32()),
        "bytes": pa.array([b"\0", None]),
        "text": pa.array(["007", None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert pq.read_table(copied(tmp_path / "t.parquet", "copy.parquet")).equals(pa.table(columns))
    pd.read_parquet(tmp_path / "copy.parquet")  # pandas' own reader must know all types


def test_a_csv_becomes_strings_in_other_formats(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,n\n007,1\n,1.10\n")
    assert copied(path, "t.jsonl").read_text() == '{"id": "007", "n": "1"}\n{"id": null, "n": "1.10"}\n'
    assert pq.read_table(copied(path, "t.parquet")).to_pydict() == {"id": ["007", None], "n": ["1", "1.10"]}
    assert json.loads(copied(path, "t.json").read_text())[1] == {"id": None, "n": "1.10"}


def test_values_with_types_become_text_in_csv(tmp_path):
    cells = [[1, "ü"], {"a": None}, True, 1.0, 10**30, None, "x"]
    table = pd.DataFrame({"a": pd.Series(cells, dtype=object), "p": np.float32(0.1)})
    write_table(table, tmp_path / "t.csv")
    again = read_table(str(tmp_path / "t.csv"))
    assert again["a"].fillna("").tolist() == ['[1, "ü"]', '{"a": null}', "True", "1.0", str(10**30), "", "x"]
    assert set(again["p"]) == {"0.1"}
    write_table(table, tmp_path / "t.jsonl")
    assert '"p": 0.1}' in (tmp_path / "t.jsonl").read_text()


def test_bytes_are_refused_where_they_would_be_text(tmp_path):
    for suffix in (".csv", ".jsonl"):
        with pytest.raises(InputError, match=r"bytes, which are no text; write \.parquet"):
            write_table(pd.DataFrame({"a": [b"x"]}), tmp_path / f"t{suffix}")


def test_types_of_a_parquet_widen_with_later_chunks(tmp_path):
    path = tmp_path / "t.parquet"
    parts: list[list] = [[None, None], [1, 2], [1.5, None], [3]]
    with TableWriter(path) as writer:
        for part in parts:
            writer.write(pd.DataFrame({"a": pd.Series(part, dtype=object), "b": "x"}))
    assert pq.read_table(path)["a"].to_pylist() == [None, None, 1, 2, 1.5, None, 3]
    assert [each.name for each in tmp_path.iterdir()] == ["t.parquet"]
    for part in (["x", 1], [2**70]):
        with pytest.raises(InputError, match=r"values of several types, or numbers too large.*write \.jsonl"):
            write_table(pd.DataFrame({"a": pd.Series(part, dtype=object)}), path)
    with pytest.raises(InputError, match="values of several types"):
        write_parts(path, {"a": ["x"]}, {"a": [1]})
    assert len(pq.read_table(path)) == 7  # the old file


def test_chunks_have_the_same_columns(tmp_path):
    with pytest.raises(InputError, match="rows with the columns b behind rows with a"):
        write_parts(tmp_path / "t.csv", {"a": ["1"]}, {"b": ["1"]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_chunks_make_the_file_that_the_table_makes(tmp_path, suffix):
    table = pd.DataFrame({"text": ["a,b", "c", "d"], "n": ["1", None, "01"]})
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    write_table(table, one)
    with TableWriter(two) as writer:
        assert not two.exists()
        for row in range(3):
            writer.write(table.iloc[row : row + 1])
    assert writer.rows == 3
    pd.testing.assert_frame_equal(read_table(str(two)), read_table(str(one)))
