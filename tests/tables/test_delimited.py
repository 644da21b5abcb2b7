"""Cells of csv and tsv are the strings that were written, and no quote takes a row in silence."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from corefold.errors import InputError
from corefold.tables.reading import read_table

ROWS = [(f"text {i}", "pos" if i % 3 else "neg") for i in range(24)]


def read(tmp_path: Path, text: str, name: str = "t.csv") -> dict[str, list]:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    return read_table(str(tmp_path / name)).to_dict("list")


def refuses(tmp_path: Path, text: str, says: str, name: str = "t.csv") -> None:
    with pytest.raises(InputError, match=says) as refusal:
        read(tmp_path, text, name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "cells",
    [["01", "02", "1"], ["1.1", "1.10", "1.100"], ["TRUE", "true", "True"], ["007", "0x1F", "1e5"],
     ["2024-01-05", "05/01/2024", "12:00"], ["9007199254740993", "123456789012345678901234567890", "-0"],
     ["NA", "None", "nan"], [" padded", "padded ", "\u00a0"], ["1_000", "1,5", "inf"]],
)  # fmt: skip
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_cells_stay_as_written(tmp_path, cells, name):
    quoted = [f'"{cell}"' if "," in cell and name == "t.csv" else cell for cell in cells]
    separator = "," if name == "t.csv" else "\t"
    text = f"a{separator}b\n" + "".join(f"{cell}{separator}x\n" for cell in quoted)
    assert read(tmp_path, text, name)["a"] == cells


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_ends_a_line(tmp_path, end):
    text = end.join(["a,b", "1,2", "", '"x""y",', "it's,'quoted'", 'say "hi",z'])
    table = read(tmp_path, text)
    assert table["a"] == ["1", 'x"y', "it's", 'say "hi"']
    assert table["b"][2:] == ["'quoted'", "z"]


def test_a_zero_byte_is_a_letter(tmp_path):
    assert read(tmp_path, "a,b\nx\0y,1\n")["a"] == ["x\0y"]


def test_long_cells_are_read_and_the_limit_of_csv_is_left_alone(tmp_path):
    before = csv.field_size_limit()
    assert read(tmp_path, f"a,b\n{'x' * 200_000},1\n")["a"] == ["x" * 200_000]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b,c\n1,2,3\n4,5\n", "line 3: fewer cells than the header .2, not 3."),
        (
            "a,b\n1,2\n\n3,4,5\n",
            "line 4: more cells than the header .3, not 2.; quote texts that hold commas",
        ),
        ("a,b\none\ntwo,1\n", "line 2: fewer cells than the header .1, not 2."),
        (
            "a,b\nx\ry,1\n",
            "line 2: fewer cells than the header .1, not 2.; .*quote texts that hold line ends",
        ),
        ("a,b,a\n1,2,3\n", "two columns with the name 'a'"),
        ('a,b\n"Great" film,1\n', 'line 2: text follows the quote that closes a cell; write ""'),
        ('a,b\n1,2\n"Great,1\nx,2\n"Fine" y,3\n', "lines 3 to 5: text follows the quote"),
        ('a,b\n1,2\n"Great,1\nx,2\n', "line 3: a quote opens a cell and is closed nowhere"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, text, says):
    refuses(tmp_path, text, says)


def test_a_tsv_has_no_quoting(tmp_path):
    lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in ROWS)]
    lines[5], lines[11] = '"stray\tpos', 'also "stray"\tneg'
    table = read(tmp_path, "\n".join(lines) + "\n", "t.tsv")
    assert len(table["text"]) == 24
    assert (table["text"][4], table["text"][10]) == ('"stray', 'also "stray"')
    refuses(tmp_path, "a\tb\n1\t2\t3\n", "line 2: more cells.*a text cannot hold a tab", "t.tsv")
    refuses(
        tmp_path,
        'a\tb\n"1\n2"\t3\n',
        "line 2: fewer cells than the header .1, not 2..*a tsv has no quoting",
        "t.tsv",
    )


def swallowing(rows: list[tuple[str, str]], swap: bool = False) -> str:
    """A csv of 24 rows in which a stray quote opens in row 5 and another closes at the end of row 11's text."""
    rows = list(rows)
    rows[4], rows[10] = (f'"{rows[4][0]}', rows[4][1]), (f'{rows[10][0]}"', rows[10][1])
    lines = ["label,text" if swap else "text,label", *(",".join(row[::-1] if swap else row) for row in rows)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("swap", [False, True])
def test_a_cell_that_swallowed_rows_is_refused_with_its_lines(tmp_path, swap):
    refuses(
        tmp_path,
        swallowing(ROWS, swap),
        r"lines 6 to 12: a quote opens a cell that holds what look like 7 rows",
    )


def test_swallowed_rows_with_numbers_and_with_two_texts_are_refused_too(tmp_path):
    scores = [(text, str(place / 8)) for place, (text, _) in enumerate(ROWS)]
    refuses(tmp_path, swallowing(scores), "lines 6 to 12")
    pairs = [(text, f"answer {place}") for place, (text, _) in enumerate(ROWS)]
    refuses(tmp_path, swallowing(pairs), "lines 6 to 12")


@pytest.mark.parametrize(
    "text",
    [
        "Dear all,\nI liked it, mostly\nBye",
        "one line\nand another",
        "a list:\r\n- x, y, z\r\n- w",
        'she said "no"\nand left, slowly',
        "\n\nblank lines\n",
        "lone\rreturn",
    ],
)
def test_texts_of_several_lines_pass(tmp_path, text):
    quoted = '"' + text.replace('"', '""') + '"'
    lines = ["text,label", *(f"{a},{b}" for a, b in ROWS), f"{quoted},pos", "last,neg"]
    table = read(tmp_path, "\n".join(lines))
    assert len(table["text"]) == 26
    assert table["text"][24] == text


def test_texts_of_several_lines_pass_where_all_rows_have_them(tmp_path):
    texts = [f"first {i}, really\nsecond {i}, truly" for i in range(8)]
    rows = "".join(f'"{text}",{"pos" if i % 2 else "neg"}\n' for i, text in enumerate(texts))
    assert read(tmp_path, "text,label\n" + rows)["text"] == texts
    assert read(tmp_path, "text\n" + "".join(f'"{text}"\n' for text in texts))["text"] == texts


def test_lines_that_are_like_rows_by_chance_pass(tmp_path):
    rows = [(text, f"answer {place}") for place, (text, _) in enumerate(ROWS)]
    text = "Dear Ann,\nthanks, indeed"  # a comma in each line, beside a column where nothing repeats
    lines = ["prompt,completion", *(f"{a},{b}" for a, b in rows), f'"{text}",my answer']
    assert read(tmp_path, "\n".join(lines))["prompt"][-1] == text
    scores = [(text, str(place / 8)) for place, (text, _) in enumerate(ROWS)]
    lines = ["text,score", *(f"{a},{b}" for a, b in scores), '"My score, 5\nout of ten",4.5']
    assert read(tmp_path, "\n".join(lines))["text"][-1] == "My score, 5\nout of ten"


def test_names_of_columns_lose_their_blanks_and_empty_ones_get_a_number(tmp_path):
    table = read(tmp_path, ",text , label,,\n0,good, pos,,\n")
    assert list(table) == ["Unnamed: 0", "text", "label", "Unnamed: 3", "Unnamed: 4"]
    assert table["label"] == [" pos"]
    assert list(read(tmp_path, "a,a \n1,2\n")) == ["a", "a "]
