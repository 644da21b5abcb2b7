"""Values of JSON stay as typed, in every shape that files of objects have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corefold.errors import InputError
from corefold.tables.reading import read_table

ROW = {"id": "00123", "date": "2024-01-05", "timestamp": 1700000000, "big": 2**53 + 1, "huge": 10**30, "x": 1.0,
       "n": 1, "yes": True, "none": None, "list": [1, {"a": None}], "text": "ü\u2028"}  # fmt: skip


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def same(a: object, b: object) -> bool:
    """Equal values of equal types: 1, 1.0 and True are different."""
    return json.dumps(a) == json.dumps(b)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
@pytest.mark.parametrize("shape", ["lines", "array", "indented array", "one object", "blank lines"])
def test_values_keep_their_types(tmp_path, name, shape):
    rows = [ROW] if shape == "one object" else [ROW, {**ROW, "n": 2.5, "x": None}]
    text = {
        "lines": "\n".join(map(json.dumps, rows)),
        "array": json.dumps(rows),
        "indented array": "\n" + json.dumps(rows, indent=2),
        "one object": json.dumps(ROW, indent=2),
        "blank lines": "\ufeff\n\n"
        + "\r\n \r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        + "\n\n",
    }[shape]
    table = read_table(write(tmp_path / name, text))
    assert list(table.columns) == list(ROW)
    for place, row in enumerate(rows):
        assert all(same(table[key].iloc[place], value) for key, value in row.items())
    assert table["none"].isna().all()


def test_keys_are_texts_and_may_be_missing(tmp_path):
    table = read_table(write(tmp_path / "t.jsonl", '{"0": "a"}\n{"1": "b", "0": null}\n'))
    assert list(table.columns) == ["0", "1"]
    assert table["0"].tolist() == ["a", None]
    assert table["1"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1}\n{"a": 2\n{"a": 3}\n', "line 2 is not JSON: Expecting ',' delimiter"),
        ("\n{'a': 1}\n", "line 2 is not JSON: Expecting property name"),
        ('{"a": 1}\n\n[1]\n', "line 3: expected an object .* got a list"),
        ('"a"\n', "line 1: expected an object .* got a text"),
        ('[{"a": 1}, 2]', "row 2: expected an object .* got a number"),
        ('[{"a": 1},\n{"a": }]', "line 2 is not JSON"),
        ('{"a": 1}\n{"b": 1, "a": 1, "a": 2}\n', "line 2 cannot be read: the key 'a' stands twice"),
        ('[{"a": 1, "a": 2}]', "cannot be read: the key 'a' stands twice"),
        ('{"a": 1} {"a": 2}\n', "line 1 is not JSON: Extra data"),
        (
            '{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}',
            "a column under each key.*orient=.records.",
        ),
        ('{"text": ["a", "b"], "label": [1, 0]}', "a column under each key"),
    ],
)
@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_the_true_reason_is_said(tmp_path, name, text, says):
    with pytest.raises(InputError, match=says) as refusal:
        read_table(write(tmp_path / name, text))
    assert "\n" not in str(refusal.value)


def test_one_row_of_chat_is_no_table_of_columns(tmp_path):
    table = read_table(write(tmp_path / "t.jsonl", '{"messages": [{"role": "user"}, {"role": "assistant"}]}'))
    assert len(table) == 1
