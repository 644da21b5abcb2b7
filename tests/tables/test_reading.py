"""Every kind of file gives the same rows, and a bad one a single line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from corefold.errors import InputError
from corefold.tables.reading import read_table

TABLE = pd.DataFrame({"text": ["a,b", "None"], "label": [1, 2]})


@pytest.mark.parametrize(
    "suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".feather", ".xlsx", ".CSV"]
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    match suffix:
        case ".tsv":
            TABLE.to_csv(path, index=False, sep="\t")
        case ".jsonl":
            TABLE.to_json(path, orient="records", lines=True)
        case ".json":
            TABLE.to_json(path, orient="records")
        case ".parquet":
            TABLE.to_parquet(path, index=False)
        case ".feather":
            TABLE.to_feather(path)
        case ".xlsx":
            TABLE.to_excel(path, index=False)
        case _:
            TABLE.to_csv(path, index=False)
    table = read_table(str(path))
    assert list(table.columns) == ["text", "label"]
    assert table["text"].tolist() == ["a,b", "None"]
    # Cells of csv and tsv are the strings that were written; the other formats know numbers.
    typed = suffix.lower() not in (".csv", ".tsv")
    assert table["label"].tolist() == ([1, 2] if typed else ["1", "2"])
    assert isinstance(table.index, pd.RangeIndex)


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_a_compressed_file_is_the_file(tmp_path, kind, compression):
    plain, packed = tmp_path / f"t.{kind}", tmp_path / f"t.{kind}.{compression}"
    text = "text,label\nä,01\n" if kind == "csv" else '[{"text": "ä", "label": "01"}]'
    plain.write_text(text, encoding="utf-8")
    pack(plain, packed)
    assert packed.read_bytes() != plain.read_bytes()
    pd.testing.assert_frame_equal(read_table(str(packed)), read_table(str(plain)))


def pack(plain: Path, packed: Path) -> None:
    import bz2
    import gzip
    import lzma

    import pyarrow as pa

    content = plain.read_bytes()
    match packed.suffix:
        case ".gz":
            packed.write_bytes(gzip.compress(content))
        case ".bz2":
            packed.write_bytes(bz2.compress(content))
        case ".xz":
            packed.write_bytes(lzma.compress(content))
        case _:
            packed.write_bytes(pa.Codec("zstd").compress(content, asbytes=True))


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_a_cut_or_false_archive_is_refused_in_one_line(tmp_path, compression):
    plain, packed = tmp_path / "t.csv", tmp_path / f"t.csv.{compression}"
    plain.write_text("text,label\n" + "".join(f"text {i * i},{i}\n" for i in range(500)))
    pack(plain, packed)
    content = packed.read_bytes()
    for broken in (content[: len(content) // 2], b"text,label\nplain,1\n"):
        packed.write_bytes(broken)
        with pytest.raises(InputError, match="cannot be read") as refusal:
            read_table(str(packed))
        assert "\n" not in str(refusal.value)


def test_only_an_empty_cell_is_missing(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\nNA,\nnull,2\nNone,""\n')
    table = read_table(str(tmp_path / "t.csv"))
    assert list(table["a"]) == ["NA", "null", "None"]
    assert list(table["b"].isna()) == [True, False, True]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.csv", "", "is empty; expected a header and rows"),
        ("t.csv", "\n\n", "is empty; expected a header and rows"),
        ("t.csv", "a,b\n", "has no rows"),
        ("t.csv", "a,b\n1,2,3\n4,5,6\n", "line 2: more cells than the header"),
        ("t.csv", 'a,b\n"1,2\n', "line 2: a quote opens a cell and is closed nowhere"),
        ("t.jsonl", "", "is empty; expected objects"),
        ("t.jsonl", "{", "line 1 is not JSON"),
        ("t.json", "[]", "has no rows"),
        ("t.parquet", "junk", "cannot be read"),
        ("t.feather", "junk", "cannot be read"),
        ("t.xlsx", "junk", "cannot be read"),
        ("t.txt", "junk", r"expected one of \.csv, \.tsv, \.jsonl, \.json, \.parquet, \.feather, \.xlsx"),
        ("t.parquet.gz", "junk", "expected one of"),
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
    [
        ("nowhere.csv", "no such file"),
        ("nowhere.csv.gz", "no such file"),
        ("nowhere", "no such file; a hub data set is written NAME:SPLIT"),
    ],
)
def test_what_is_not_there_is_refused(source, says):
    with pytest.raises(InputError, match=says):
        read_table(source)


def test_the_delimiter_that_alone_divides_the_header_is_taken_and_said(tmp_path):
    for delimiter in ";\t|":
        path = tmp_path / "t.csv"
        path.write_text(f'text{delimiter}label\n"so, so"{delimiter}1\n')
        notes: list[str] = []
        table = read_table(str(path), notes=notes)
        assert table.to_dict("list") == {"text": ["so, so"], "label": ["1"]}
        assert notes == [f"{path}: cells are separated by {delimiter!r}; --delimiter changes that"]


def test_a_delimiter_is_not_guessed_against_a_comma_or_the_rows(tmp_path):
    for text, names in (("a;b,c\n1;2,3\n", ["a;b", "c"]), ("a|b\nno bar\n", ["a|b"]), ("a\nx;y\n", ["a"])):
        (tmp_path / "t.csv").write_text(text)
        notes: list[str] = []
        assert list(read_table(str(tmp_path / "t.csv"), notes=notes).columns) == names
        assert notes == []


@pytest.mark.parametrize("delimiter", [";", ",", "^"])
def test_excels_own_line_says_the_delimiter(tmp_path, delimiter):
    path = tmp_path / "t.csv"
    path.write_text(f"sep={delimiter}\r\ntext{delimiter}label\r\na{delimiter}1\r\n", newline="")
    assert read_table(str(path)).to_dict("list") == {"text": ["a"], "label": ["1"]}


def test_a_delimiter_that_is_named_wins(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b;c\n1,2;3\n")
    assert list(read_table(str(path), delimiter=";").columns) == ["a,b", "c"]
    path.write_text("a\tb,c\n1\t2,3\n")
    assert list(read_table(str(path), delimiter="\\t").columns) == ["a", "b,c"]
    with pytest.raises(InputError, match=r"--delimiter must be one character.*got 'ab'"):
        read_table(str(path), delimiter="ab")


def test_quotes_around_cells_of_a_tsv_stay_and_are_said(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text('text\tlabel\n"quoted"\t1\n"\t0\n')
    notes: list[str] = []
    assert read_table(str(path), notes=notes)["text"].tolist() == ['"quoted"', '"']
    assert [note.startswith(f"{path}: 1 of its cells stand in quotes") for note in notes] == [True]
