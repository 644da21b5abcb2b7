"""Bytes become the text that was meant, or the line that is not."""

from __future__ import annotations

import pytest

from corefold.errors import InputError
from corefold.tables.reading import read_table

TEXT = "text,label\nschön,1\ncafé,0\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_a_mark_says_the_encoding(tmp_path, encoding, name):
    text = {"t.csv": TEXT, "t.tsv": TEXT.replace(",", "\t")}.get(
        name, '{"text": "schön"}\n{"text": "café"}\n'
    )
    (tmp_path / name).write_text(text, encoding=encoding)
    notes: list[str] = []
    table = read_table(str(tmp_path / name), notes=notes)
    assert table.columns[0] == "text"
    assert table["text"].tolist() == ["schön", "café"]
    assert len(notes) == (encoding in ("utf-16", "utf-32"))
    assert all("--encoding" in note and encoding in note for note in notes)


def test_a_byte_that_is_no_text_is_named_by_its_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TEXT, encoding="cp1252")
    with pytest.raises(
        InputError, match=r"t\.csv, line 2: the byte 0xf6 is not utf-8; add --encoding .*cp1252"
    ):
        read_table(str(path))
    assert read_table(str(path), encoding="cp1252")["text"].tolist() == ["schön", "café"]


def test_a_named_encoding_that_does_not_fit_or_exist_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TEXT, encoding="utf-8")
    with pytest.raises(InputError, match="line 2: the byte 0xc3 is not ascii"):
        read_table(str(path), encoding="ascii")
    with pytest.raises(InputError, match="--encoding utf-9: Python knows no such encoding"):
        read_table(str(path), encoding="utf-9")
    path.write_bytes(TEXT.encode("utf-16-le")[:-1])
    with pytest.raises(InputError, match="is not utf-16-le"):
        read_table(str(path), encoding="utf-16-le")


def test_utf_16_without_a_mark_is_recognised_by_its_zeros(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("text,label\ngood,1\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="the header holds zero bytes; if it is UTF-16, add --encoding"):
        read_table(str(path))
    assert read_table(str(path), encoding="utf-16-le")["text"].tolist() == ["good"]
