"""Users' own files through the command line: what a file says is what happens, or one line says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from command import corefold, read_jsonl, refused, write_csv, write_jsonl
from corefold.finetune.trainer import TrainingRun

TEXTS = ["a joy", "a mess", "so warm", "so dull", "the best", "the worst"]


def task_of(out: Path) -> dict:
    return json.loads((out / "task.json").read_text(encoding="utf-8"))


# Row 1: cells are not retyped.


def test_classes_are_the_strings_of_the_file(finetune_table, tmp_path):
    train = write_csv(
        tmp_path / "t.csv", ["text", "label"], [*zip(TEXTS, ["01", "02", "2A"] * 2, strict=True)]
    )
    held_out = write_csv(tmp_path / "e.csv", ["text", "label"], [*zip(TEXTS, ["01", "02"] * 3, strict=True)])
    outcome = finetune_table(train, eval=held_out)
    assert outcome.code == 0, outcome.err
    assert task_of(tmp_path / "out")["classes"] == ["01", "02", "2A"]
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, ["02", "2A"] * 3, strict=True)]
    assert corefold("evaluate", tmp_path / "out", write_jsonl(tmp_path / "e.jsonl", rows)).code == 0
    rows[3]["label"] = "2"
    refused(
        corefold("evaluate", tmp_path / "out", write_jsonl(tmp_path / "e.jsonl", rows)),
        "row 4",
        "class '2' never occurs",
    )


def test_classes_that_look_like_numbers_stay_apart(finetune_table, tmp_path):
    labels = ["1.1", "1.10", "TRUE", "①", "²", "--1"]
    table = write_csv(tmp_path / "t.csv", ["text", "label"], [*zip(TEXTS * 2, labels * 2, strict=True)])
    outcome = finetune_table(table)
    assert outcome.code == 0, outcome.err
    assert task_of(tmp_path / "out")["classes"] == ["--1", "1.1", "1.10", "TRUE", "²", "①"]


def test_predict_carries_a_csv_through_unchanged(predictions_of, tmp_path):
    lines = [
        "id, text,date,ok,,ref",
        "00123,007,2024-01-05,TRUE,x,9007199254740993",
        '1.10,"a, b",NA,,,"two\nlines"',
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", newline="")
    out = predictions_of(tmp_path / "t.csv", tmp_path / "p.csv").read_text()
    assert out.startswith(lines[0] + ",prediction,probability\n" + lines[1] + ",")
    assert "\n" + lines[2] + "," in out
    rows = read_jsonl(predictions_of(tmp_path / "t.csv", tmp_path / "p.jsonl"))
    assert (rows[0]["id"], rows[0]["text"], rows[0]["ok"]) == ("00123", "007", "TRUE")
    assert rows[1]["ok"] is None


def test_predict_carries_jsonl_through_with_its_types(predictions_of, tmp_path):
    rows = [
        {"id": "00123", "text": "a joy", "date": "2024-01-05", "timestamp": 1700000000, "big": 2**60 + 1},
        {"id": 7, "text": "a mess", "list": [1, {"a": None}], "none": None, "x": 1.0},
        {"id": str(2**53 + 1), "text": "007", "timestamp": 1.5},
    ]
    out = predictions_of(write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "p.jsonl")
    again = read_jsonl(out)
    for row, was in zip(again, rows, strict=True):
        assert {"prediction", "probability"} == {*row} - {*was}
        assert json.dumps({key: row[key] for key in was}) == json.dumps(was)


def test_predict_carries_parquet_through_with_its_types_and_its_index(predictions_of, tmp_path):
    table = pd.DataFrame(
        {
            "id": ["00123", "7"],
            "text": ["a", "b"],
            "n": pd.array([2**53 + 1, None], "Int64"),
            "t": pd.to_datetime(["2024-01-05 10:00", None]),
            "list": [[1, 2], None],
        }
    )
    table.set_index("id").to_parquet(tmp_path / "t.parquet")
    before = pq.read_table(tmp_path / "t.parquet")
    after = pq.read_table(predictions_of(tmp_path / "t.parquet", tmp_path / "p.parquet"))
    assert after.column_names == ["id", "text", "n", "t", "list", "prediction", "probability"]
    for name in before.column_names:
        assert after[name].to_pylist() == before[name].to_pylist()
        assert after[name].type == before[name].type
    csv = predictions_of(tmp_path / "t.parquet", tmp_path / "p.csv").read_text().splitlines()
    assert csv[1].startswith('00123,a,9007199254740993,2024-01-05 10:00:00,"[1, 2]",')
    assert csv[2].startswith("7,b,,,,")


# Row 3: quotes do not swallow rows.


def test_stray_quotes(predictions_of, two_classes, tmp_path):
    lines = [f"text {i}\t{'pos' if i % 3 else 'neg'}" for i in range(24)]
    lines[4], lines[10] = '"' + lines[4], '"' + lines[10]
    (tmp_path / "t.tsv").write_text("\n".join(["text\tlabel", *lines]))
    out = pd.read_csv(predictions_of(tmp_path / "t.tsv", tmp_path / "p.tsv"), sep="\t", quoting=3)
    assert len(out) == 24
    assert out["text"][4] == '"text 4'
    (tmp_path / "t.csv").write_text("\n".join(["text\tlabel", *lines]).replace("\t", ","))
    refused(
        corefold("predict", two_classes, tmp_path / "t.csv", "-o", tmp_path / "p.csv"),
        "lines 6 to 12",
        '""',
        ".tsv",
    )
    lines[10] = 'text 10"\tneg'
    (tmp_path / "t.csv").write_text("\n".join(["text\tlabel", *lines]).replace("\t", ","))
    refused(
        corefold("predict", two_classes, tmp_path / "t.csv", "-o", tmp_path / "p.csv"),
        "lines 6 to 12",
        "7 rows",
    )


def test_rows_that_do_not_fit_the_header_are_refused(two_classes, tmp_path):
    for text, words in (
        ("text,label\na,1\nb\n", ["line 3", "fewer cells than the header"]),
        ("text,label,text\na,1,b\n", ["two columns", "'text'"]),
        ("text,label\na,1\n\nb,c,0\n", ["line 4", "more cells than the header"]),
    ):
        (tmp_path / "t.csv").write_text(text)
        refused(
            corefold("predict", two_classes, tmp_path / "t.csv", "-o", tmp_path / "p.csv"), "t.csv", *words
        )
        assert not (tmp_path / "p.csv").exists()


# Row 4: cells that are no scalars.


@pytest.mark.parametrize(
    ("row", "text", "label", "words"),
    [
        ({"text": "a", "label": ["a", "b"]}, "text", "label", ["row 1", "'label' holds a list"]),
        ({"text": "a", "label": {"a": 1}}, "text", "label", ["row 1", "'label' holds an object"]),
        (
            {"messages": [{"role": "user", "content": "a"}], "label": "x"},
            "messages",
            "label",
            ["'messages' holds a list"],
        ),
        ({"prompt": [{"role": "user"}], "completion": [{"role": "assistant"}]}, None, None, ["holds a list"]),
    ],
)
def test_cells_of_several_values_are_refused(finetune_table, tmp_path, row, text, label, words):
    table = write_jsonl(tmp_path / "t.jsonl", [row] * 4)
    refused(finetune_table(table, text=text, label=label), "t.jsonl", *words)
    assert not (tmp_path / "out").exists()


def test_bytes_are_no_text(two_classes, tmp_path):
    pd.DataFrame({"text": [b"a", b"b"]}).to_parquet(tmp_path / "t.parquet")
    refused(
        corefold("predict", two_classes, tmp_path / "t.parquet", "-o", tmp_path / "p.csv"),
        "row 1",
        "'text' holds bytes",
    )


# Row 5: guesses are said.


@pytest.fixture(scope="session")
def language_model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random language model with MiniLM's tokenizer."""
    from transformers import AutoTokenizer

    from models import tiny_llama

    folder = tmp_path_factory.mktemp("language-model")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_prompt_and_completion_on_a_language_model_are_causal_lm(finetune_table, tmp_path, language_model):
    rows = [
        {"prompt": text, "completion": label} for text, label in zip(TEXTS, ["yes", "no"] * 3, strict=True)
    ]
    table = write_jsonl(tmp_path / "t.jsonl", rows)
    outcome = finetune_table(table, model=language_model, text=None, label=None)
    assert outcome.code == 0, outcome.err
    assert task_of(tmp_path / "out")["kind"] == "causal-lm"
    notes = [line for line in outcome.err.splitlines() if line.startswith("note: ")]
    assert any("--prompt prompt --completion completion" in note for note in notes)
    assert any("task causal-lm" in note and "--task" in note for note in notes)


def test_many_whole_numbers_become_a_regression_with_a_word(finetune_table, tmp_path):
    rows = [(f"text {i}", i) for i in range(60)]
    table = write_csv(tmp_path / "t.csv", ["text", "label"], rows)
    outcome = finetune_table(table, samples=1000)  # Notes come before the work, which too few rows end here.
    refused(outcome, "1000 rows wanted")
    assert "note: task regression: the 60 whole numbers in 'label' are read as amounts" in outcome.err


def test_classes_that_are_nearly_equal_are_said(finetune_table, tmp_path):
    table = write_csv(
        tmp_path / "t.csv", ["text", "label"], [*zip(TEXTS, ["pos", "pos ", "neg"] * 2, strict=True)]
    )
    outcome = finetune_table(table, samples=1000)
    refused(outcome, "1000 rows wanted")
    assert "note: " in outcome.err
    assert "the classes 'pos' and 'pos ' differ only by blanks or case and count as two" in outcome.err


# Row 7: --resume over changed rows.


def test_resume_refuses_changed_rows(finetune_table, tmp_path, monkeypatch):
    rows = [*zip(TEXTS, ["a", "b"] * 3, strict=True)]
    table, held_out = (write_csv(tmp_path / name, ["text", "label"], rows) for name in ("t.csv", "e.csv"))

    def stop(self, checkpoint):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "train", stop)
        assert finetune_table(table, eval=held_out).code == 130
    more = [*rows, ("new", "a")]
    reversed_names = [(text, {"a": "z", "b": "b"}[label]) for text, label in rows]
    for path, changed in ((table, more), (table, reversed_names), (held_out, more)):
        write_csv(path, ["text", "label"], changed)
        if changed is reversed_names:
            write_csv(held_out, ["text", "label"], changed)
        refused(corefold("finetune", "--resume", "-o", tmp_path / "out"), path.name, "the rows are others")
        for each in (table, held_out):
            write_csv(each, ["text", "label"], rows)
    write_csv(table, ["text", "label", "unused"], [(*row, "x") for row in rows])
    outcome = corefold("finetune", "--resume", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
