"""Shapes, encodings and formats of users' files through the command line."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from command import refused, write_jsonl

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
