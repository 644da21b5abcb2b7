"""Several labels a text: how they are written in files, their scores, and a run through the command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import pipeline

from command import corefold, refused, write_csv
from corefold.finetune import InputError, RunConfig, Task
from corefold.finetune.data import Columns
from corefold.finetune.run_data import read_tables
from corefold.finetune.tasks.kinds import kind_of

LABELS = Task("multi-label", "m", "mean", Columns("text", label="tags"), classes=("a", "b", "c"))
TEXTS = ["red apple", "green apple", "red car", "green car", "apple and car , red", "blue sea"]
TAGS = [["red", "fruit"], ["fruit"], ["red"], ["car"], ["red", "car", "fruit"], []]


@pytest.fixture
def files(tmp_path):
    """The same rows as lists in jsonl and parquet, JSON in csv, and columns of 0 and 1."""
    table = pd.DataFrame({"text": TEXTS * 3, "tags": TAGS * 3})
    table.to_json(tmp_path / "lists.jsonl", orient="records", lines=True)
    table.to_parquet(tmp_path / "lists.parquet")
    rows = list(zip(TEXTS * 3, TAGS * 3, strict=True))
    write_csv(tmp_path / "json.csv", ["text", "tags"], [(text, json.dumps(tags)) for text, tags in rows])
    names = ["red", "fruit", "car"]
    marks = [(text, *(int(name in tags) for name in names)) for text, tags in rows]
    write_csv(tmp_path / "marks.csv", ["text", *names], marks)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "label", "task"),
    [
        ("lists.jsonl", "tags", None),
        ("lists.parquet", "tags", None),
        ("json.csv", "tags", "multi-label"),
        ("marks.csv", "red,fruit,car", None),
        ("marks.csv", "red, fruit, car", "multi-label"),
    ],
)
def test_every_way_to_write_labels_is_one_task(files, tiny, name, label, task):
    config = RunConfig(model=str(tiny), train=str(files / name), text="text", label=label, task=task)
    tables = read_tables(config)
    assert (tables.task.kind, tables.task.classes) == ("multi-label", ("car", "fruit", "red"))
    assert [set(labels) for labels in tables.train[label]] == [set(tags) for tags in TAGS * 3]
    assert any("--task" in note for note in tables.notes) == (task is None)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (
            [["a"], "b", ["a", "b"]],
            r"row 2: column 'tags' holds 'b'; expected a list such as \[\"a\", \"b\"\]",
        ),
        ([["a"], ["b", ""]], r"row 2: .* holds \['b', ''\]"),
        ([["a"], [{"b": 1}]], r"row 2: .* holds \[\{'b': 1\}\]"),
        ([["a"], None], "row 2: column 'tags' is empty"),
        ([[], []], "no row has a label in 'tags'"),
        ([["a"], ["a"]], "one class only"),
    ],
)
def test_cells_that_are_no_labels_are_refused(tmp_path, tiny, cells, words):
    rows = [json.dumps({"text": f"t{i}", "tags": cell}) for i, cell in enumerate(cells)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    config = RunConfig(
        model=str(tiny), train=str(tmp_path / "t.jsonl"), text="text", label="tags", task="multi-label"
    )
    with pytest.raises(InputError, match=words):
        read_tables(config)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("red,none", "no column 'none'"),
        ("red,text", "row 1: column 'text' holds 'red apple'; several columns as --label must hold 0 or 1"),
        ("red,fruit,never", "no row has a 1 in column 'never'; leave it out of --label"),
    ],
)
def test_columns_that_are_no_labels_are_refused(files, tiny, label, words):
    pd.read_csv(files / "marks.csv").assign(never=0).to_csv(files / "marks.csv", index=False)
    with pytest.raises(InputError, match=words):
        read_tables(RunConfig(model=str(tiny), train=str(files / "marks.csv"), text="text", label=label))


def test_scores_and_predictions():
    kind = kind_of(LABELS)
    logits = np.array([[1.0, -1.0, 2.0], [-1.0, 0.0, -3.0], [1.0, 1.0, -1.0]])
    labels = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    found = kind.scores(LABELS, logits, labels)
    assert found["f1_micro"] == pytest.approx(2 * 3 / (5 + 4))
    assert found["f1_macro"] == pytest.approx((2 / 3 + 2 / 3 + 2 / 3) / 3)
    assert found["exact_rows"] == pytest.approx(1 / 3)
    report = kind.label_report(LABELS, logits, labels)
    assert report["b"] == {
        "precision": 0.5,
        "recall": 1.0,
        "f1-score": pytest.approx(2 / 3),
        "support": 1.0,
    }
    predictions = kind.predictions(LABELS, logits)
    assert predictions["prediction"] == [["a", "c"], ["b"], ["a", "b"]]
    assert predictions["probabilities"][0]["b"] == pytest.approx(1 / (1 + np.e))
    strict = Task(**{**LABELS.__dict__, "threshold": 0.8})
    assert kind.predictions(strict, logits)["prediction"] == [["c"], [], []]


def test_the_loss_is_the_mean_over_labels():
    logits, labels = torch.tensor([[0.3, -2.0]]), torch.tensor([[1.0, 0.0]])
    p = logits.sigmoid()
    expected = -(p[0, 0].log() + (1 - p[0, 1]).log()) / 2
    assert kind_of(LABELS).loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_best_constant_set_of_labels():
    train = [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    # {a}: 2*3/(4+6) = .6, {a, c}: 2*5/(8+6) = .71, {a, b, c}: 2*6/(12+6) = .67
    found = kind_of(LABELS).constant_answer(LABELS, train, [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert found["f1_micro"] == pytest.approx(2 * 3 / (4 + 3))
    assert found["exact_rows"] == 0.5


@pytest.mark.parametrize(("head", "steps"), [("own", 8), ("mean", 40)])
def test_a_run_through_the_command_line(files, tiny, tmp_path, head, steps):
    table, out = files / "lists.jsonl", tmp_path / "out"
    outcome = corefold(
        "finetune", "--model", tiny, "--train", table, "--eval", table, "--text", "text", "--label", "tags",
        "--head", head, "--steps", steps, "--method", "lora", "--lr", 0.02, "--head-lr", 0.02, "--weight-decay", 0, "-o", out,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "task multi-label: 'tags' holds lists of labels; --task changes that" in outcome.err
    before, after = (json.loads((out / "metrics.json").read_text())[stage] for stage in ("before", "after"))
    assert after["loss"] < before["loss"]
    # The first token of random weights, which an own head reads, hardly depends on the text.
    assert head == "own" or after["f1_micro"] > 0.9
    scores = corefold("evaluate", out, files / "json.csv", "--json", tmp_path / "s.json")
    assert scores.code == 0, scores.err
    assert json.loads((tmp_path / "s.json").read_text())["f1_micro"] == pytest.approx(after["f1_micro"])
    predicted = corefold("predict", out, table, "-o", tmp_path / "p.jsonl")
    assert predicted.code == 0, predicted.err
    first = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    assert first["tags"] == TAGS[0]
    assert first["prediction"] == [
        name for name in ("car", "fruit", "red") if first["probabilities"][name] >= 0.5
    ]
    if head == "own":
        assert corefold("merge", out, "-o", tmp_path / "merged").code == 0
        ((*stock,),) = pipeline("text-classification", str(tmp_path / "merged"), device="cpu")(
            [TEXTS[0]], top_k=None
        )
        assert {each["label"]: each["score"] for each in stock} == pytest.approx(
            first["probabilities"], abs=1e-5
        )


def test_a_label_that_training_never_saw_is_refused(files, tiny, tmp_path):
    (tmp_path / "new.jsonl").write_text('{"text": "x", "tags": ["red"]}\n{"text": "y", "tags": ["new"]}\n')
    outcome = corefold(
        "finetune", "--model", tiny, "--train", files / "lists.jsonl", "--eval", tmp_path / "new.jsonl", "--text",
        "text", "--label", "tags", "--steps", 1, "-o", tmp_path / "out",
    )  # fmt: skip
    refused(outcome, "new.jsonl, row 2", "'new' never occurs in the training data")


def test_compare_scores_it_by_micro_f1(files, tiny, tmp_path):
    outcome = corefold(
        "compare", "--model", tiny, "--train", files / "lists.jsonl", "--text", "text", "--label", "tags", "--methods",
        "head,lora", "--ranks", 2, "--seeds", 1, "--steps", 2, "--jobs", 1, "-o", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    cells = [json.loads(line) for line in (tmp_path / "out/cells.jsonl").read_text().splitlines()]
    assert {cell["main"] for cell in cells} == {"f1_micro"}
    assert not any(cell["error"] for cell in cells)
