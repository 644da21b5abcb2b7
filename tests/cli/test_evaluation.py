"""Evaluation on few rows through the command line: splits, intervals, classes, verdict, folds and class weights."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from command import corefold, refused, write_csv

WORDS = {"good": ["joy", "fine"], "bad": ["dull", "mess"], "so": ["usual", "plain"]}


def films(path: Path, counts: dict[str, int]) -> Path:
    rows = [
        (f"a {random.Random(number).choice(WORDS.get(name, ['strange']))} film {number}", name)
        for name, count in counts.items()
        for number in range(count)
    ]
    return write_csv(path, ["text", "label"], random.Random(0).sample(rows, len(rows)))


@pytest.fixture
def finetune(tiny, tmp_path):
    """A function that runs the command on such classes, and returns its outcome and its metrics."""

    def run(counts, *options, out="out"):
        train = films(tmp_path / "films.csv", counts)
        outcome = corefold(
            "finetune", "--model", tiny, "--train", train, "--text", "text", "--label", "label", "--steps", 3,
            "--width", 8, "--max-length", 16, *options, "-o", tmp_path / out,
        )  # fmt: skip
        path = tmp_path / out / "metrics.json"
        return outcome, json.loads(path.read_text()) if path.exists() else {}

    return run


def test_forty_rows_of_three_classes_are_all_trained_and_judged(finetune, tmp_path):
    outcome, metrics = finetune({"good": 20, "bad": 12, "so": 8})
    assert outcome.code == 0, outcome.err
    assert "never" not in outcome.err
    assert metrics["rows"] == {"train": 32, "eval": 8}
    assert metrics["class_rows"] == {"bad": 10, "good": 16, "so": 6}
    assert [each["rows"] for each in metrics["report"]["classes"]] == [2, 4, 2]
    low, high = metrics["intervals"]["accuracy"]
    assert low <= metrics["after"]["accuracy"] <= high
    assert re.search(rf"accuracy .* {low:.3g} to {high:.3g}", outcome.out)
    assert re.search(r"log loss +\d", outcome.out)
    assert "the majority class" in outcome.out
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<svg") == 4
    assert "Rows by true and predicted class" in page
    assert "10 equal bins" in page

    train, scores = tmp_path / "films.csv", tmp_path / "scores.json"
    outcome = corefold("evaluate", tmp_path / "out", train, "--json", scores)
    assert outcome.code == 0, outcome.err
    found = json.loads(scores.read_text())
    assert found["rows"] == 40
    matrix = [line.split() for line in outcome.out.split("true / predicted")[1].splitlines()[1:4]]
    assert matrix == [
        [name, *map(str, row)]
        for name, row in zip(("bad", "good", "so"), found["report"]["confusion"], strict=True)
    ]
    assert found["intervals"]["accuracy"][0] < found["accuracy"] < found["intervals"]["accuracy"][1]


def test_classes_that_are_never_trained_or_never_judged_are_said(finetune):
    outcome, metrics = finetune({"good": 14, "bad": 9, "odd": 1, "rare": 1}, "--samples", 3)
    assert outcome.code == 0, outcome.err
    assert "note: never judged, for lack of rows to evaluate on: 'odd', 'rare'" in outcome.err
    untrained = [name for name, rows in metrics["class_rows"].items() if not rows]
    assert untrained
    listed = ", ".join(map(repr, untrained))
    assert f"note: never trained, for lack of training rows: {listed}" in outcome.err


def test_folds_and_the_kept_step_are_shown_and_a_finished_run_shows_them_again(finetune, tmp_path):
    outcome, metrics = finetune({"good": 12, "bad": 8}, "--folds", 2, "--keep", "best")
    assert outcome.code == 0, outcome.err
    assert "fold 2 of 2: 10 rows train, 10 judge" in outcome.err
    assert "4 of the 20 training rows do not train" in outcome.err
    for words in ("fold 1", "fold 2", "mean", "each judged by a model that did not train on it", "kept step"):
        assert words in outcome.out
    assert len(metrics["folds"]["folds"]) == 2
    page = (tmp_path / "out/report.html").read_text()
    assert ">Folds</h2>" in page
    again = corefold("finetune", "--resume", "-o", tmp_path / "out")
    assert again.out.split("\n", 1)[1] == outcome.out


def test_class_weights_without_classes_are_refused(tiny, tmp_path):
    rows = [(f"text {n}", n / 7) for n in range(20)]
    table = write_csv(tmp_path / "n.csv", ["text", "label"], rows)
    outcome = corefold(
        "finetune", "--model", tiny, "--train", table, "--text", "text", "--label", "label", "--steps", 1,
        "--class-weight", "balanced", "-o", tmp_path / "out",
    )  # fmt: skip
    refused(outcome, "--class-weight balanced weighs the classes", "regression")
    assert not (tmp_path / "out").exists()
