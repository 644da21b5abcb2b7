"""Shapes, encodings and formats of users' files through the command line."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from command import corefold, refused, write_csv, write_jsonl

TEXTS = ["a joy", "a mess", "so warm", "so dull", "the best", "the worst"]


@pytest.mark.parametrize("shape", ["mark", "array", "array in .jsonl", "blank lines", "keys"])
def test_every_shape_of_json_is_read(predictions_of, tmp_path, shape):
    rows = [{"text": text, "0": "a", "1": i} for i, text in enumerate(TEXTS)]
    lines = [json.dumps(row) for row in rows]
    name = "t.json" if shape == "array" else "t.jsonl"
    text = {
        "mark": "\ufeff" + "\n".join(lines),
        "array": json.dumps(rows, indent=1),
        "array in .jsonl": json.dumps(rows),
        "blank lines": "\n\n" + "\n\n".join(lines) + "\n\n",
        "keys": "\n".join(lines),
    }[shape]
    (tmp_path / name).write_text(text, encoding="utf-8")
    out = pd.read_csv(predictions_of(tmp_path / name, tmp_path / "p.csv"))
    assert list(out.columns) == ["text", "0", "1", "prediction", "probability"]
    assert out["text"].tolist() == TEXTS


def test_a_broken_line_and_empty_cells_are_named(finetune_table, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": 1}\n\n{"text": "b", "label": }\n')
    refused(finetune_table(tmp_path / "t.jsonl"), "t.jsonl, line 3 is not JSON")
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)]
    for key, cell in (("text", ""), ("text", " \t"), ("label", ""), ("label", None)):
        table = write_jsonl(
            tmp_path / "t.jsonl", [*rows, {**rows[0], key: cell}, rows[1], {**rows[2], key: cell}]
        )
        refused(finetune_table(table), "t.jsonl, row 7", f"'{key}' is empty", "7, 9")


def test_formats_that_users_have(predictions_of, tmp_path):
    rows = [(f"{text}; really", i) for i, text in enumerate(TEXTS)]
    frame = pd.DataFrame(rows, columns=["text", "n"])
    frame.to_csv(tmp_path / "semicolon.csv", sep=";", index=False)
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    frame.to_feather(tmp_path / "t.feather")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    (tmp_path / "t.csv").write_text(frame.to_csv(index=False), encoding="utf-16")
    answers = []
    for name in ("semicolon.csv", "t.xlsx", "t.feather", "t.csv.gz", "t.csv"):
        out = pd.read_excel(predictions_of(tmp_path / name, tmp_path / f"{name}.xlsx"))
        assert out["text"].tolist() == [text for text, _ in rows]
        answers.append(out["probability"].to_numpy())
    np.testing.assert_allclose(answers, [answers[0]] * 5)


def test_an_encoding_and_a_delimiter_can_be_named(finetune_table, tmp_path):
    path = tmp_path / "t.csv"
    rows = "".join(f"schön {text}:{i % 2}\n" for i, text in enumerate(TEXTS))
    path.write_text("text:label\n" + rows, encoding="cp1252")
    refused(finetune_table(path), "t.csv, line 2", "0xf6 is not utf-8", "--encoding", "cp1252")
    refused(finetune_table(path, encoding="cp1252"), "no column 'text'", "text:label")
    refused(finetune_table(path, encoding="cp1252", delimiter=":", samples=1000), "1000 rows wanted", "has 6")


def test_predict_says_which_rows_it_left_empty_and_writes_the_others(two_classes, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text('id,text\n007,a joy\n008,\n009,"  "\n010,so dull\n')
    outcome = corefold("predict", two_classes, table, "-o", tmp_path / "p.csv")
    assert outcome.code == 0, outcome.err
    assert "2 rows without text have no prediction (row 2, 3)" in outcome.err
    rows = (tmp_path / "p.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["id", "007", "008", "009", "010"]
    assert rows[2] == "008,,,"
    assert rows[1].split(",")[2] in ("0", "1")


def test_predict_reads_other_encodings_and_delimiters(two_classes, tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes("id;text\n1;été\n2;naïve\n".encode("cp1252"))
    arguments = ["predict", two_classes, table, "-o", tmp_path / "p.jsonl"]
    refused(corefold(*arguments), "--encoding")
    outcome = corefold(*arguments, "--encoding", "cp1252")
    assert outcome.code == 0, outcome.err
    assert "note: " in outcome.err
    assert "--delimiter" in outcome.err
    first = json.loads((tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (first["id"], first["text"]) == ("1", "été")


def test_a_table_of_many_chunks_is_predicted_as_one_of_few(two_classes, tmp_path, monkeypatch):
    from corefold.tables import chunks

    table = write_csv(tmp_path / "t.csv", ["id", "text"], [(f"0{i}", f"a joy {i}") for i in range(23)])
    assert corefold("predict", two_classes, table, "-o", tmp_path / "one.csv").code == 0
    monkeypatch.setattr(chunks.read_chunks, "__defaults__", (5,))
    assert corefold("predict", two_classes, table, "-o", tmp_path / "many.csv").code == 0
    one, many = ((tmp_path / name).read_text().splitlines() for name in ("one.csv", "many.csv"))
    assert len(one) == len(many) == 24
    for a, b in zip(one[1:], many[1:], strict=True):
        *carried, probability = a.split(",")
        *same, other = b.split(",")
        assert carried == same
        assert float(probability) == pytest.approx(float(other), rel=1e-4)
