"""A tag a word: alignment with tokens, windows, seqeval's scores, and a run through the command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, pipeline

from command import corefold, refused
from corefold.finetune import InputError, RunConfig, Task, load_run, predict
from corefold.finetune.data import Columns
from corefold.finetune.encoding import IGNORED
from corefold.finetune.run_data import read_tables
from corefold.finetune.tasks.kinds import kind_of

COLUMNS = Columns("tokens", label="tags")
TAGS = ("B-food", "B-name", "I-name", "O")
TASK = Task("token-classification", "m", "own", COLUMNS, classes=TAGS, max_length=12)
ROWS = [
    (["Blue", "Spice", "serves", "sushi"], ["B-name", "I-name", "O", "B-food"]),
    (["pizza", "at", "Unbelievables"], ["B-food", "O", "B-name"]),
    (["nothing", "here"], ["O", "O"]),
]
KIND = kind_of(TASK)


def table(rows=ROWS):
    return pd.DataFrame(rows, columns=["tokens", "tags"])


@pytest.fixture
def write(tmp_path):
    def make(rows=ROWS, name="t.jsonl"):
        table(rows).to_json(tmp_path / name, orient="records", lines=True)
        return tmp_path / name

    return make


@pytest.fixture(params=["minilm_dir", "smollm2_dir"])
def tokenizer(request):
    """One that adds tokens around a text, and one that tells words apart by their blanks."""
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(request.param))
    KIND.prepare_tokenizer(tokenizer)
    return tokenizer


def test_a_tag_stands_at_the_first_token_of_its_word(tokenizer):
    cleaned = KIND.clean(table(), COLUMNS, "t")
    for row, (words, tags) in zip(KIND.encode(TASK, tokenizer, cleaned, "t"), ROWS, strict=True):
        places = [i for i, label in enumerate(row["labels"]) if label != IGNORED]
        assert [TASK.classes[row["labels"][i]] for i in places] == tags
        ends = [*places[1:], len(row["labels"])]
        spelled = [
            tokenizer.decode(row["input_ids"][a:b], skip_special_tokens=True)
            for a, b in zip(places, ends, strict=True)
        ]
        assert [each.strip().lower() for each in spelled] == [word.lower() for word in words]


def test_words_keep_their_blanks_in_the_saved_tokenizer(smollm2_dir, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    KIND.prepare_tokenizer(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = each(["Blue", "Spice"], is_split_into_words=True).input_ids
        assert ids == tokenizer(" Blue Spice", add_special_tokens=False).input_ids


def test_long_texts_are_read_in_windows_and_silent_words_have_a_place(tokenizer):
    words = [f"unbelievable{i}" if i % 3 else "\u200b" for i in range(20)]
    numbers = [(7 * i) % 4 for i in range(20)]
    rows = pd.DataFrame({"tokens": [words, ["short"]], "tags": [[TAGS[i] for i in numbers], ["O"]]})
    encoded = KIND.encode(TASK, tokenizer, KIND.clean(rows, COLUMNS, "t"), "t")
    assert len(encoded) > 3
    assert max(len(row["input_ids"]) for row in encoded) <= TASK.max_length
    outputs = np.full((len(encoded), TASK.max_length), IGNORED)
    for window, row in zip(outputs, encoded, strict=True):
        window[: len(row["labels"])] = row["labels"]
    found = KIND.predictions_of(TASK, rows, outputs)["prediction"]
    assert found == [[TAGS[i] for i in numbers], ["O"]]


def test_entities_are_scored_whole():
    labels = np.array([[IGNORED, 1, 2, IGNORED, 3, 0], [IGNORED, 0, 3, 1, IGNORED, IGNORED]])
    guess = np.array([[9, 1, 2, 9, 0, 0], [9, 0, 3, 2, 9, 9]])  # found 4 of 4 by start, one of another extent
    found = KIND.scores(TASK, guess, labels)
    assert found["precision"] == pytest.approx(4 / 5)
    assert found["recall"] == pytest.approx(1.0)
    assert found["f1"] == pytest.approx(8 / 9)
    assert found["accuracy"] == pytest.approx(5 / 7)
    report = {each["class"]: each for each in KIND.report(TASK, guess, labels)["classes"]}
    assert report["food"] == {"class": "food", "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "rows": 2}
    assert KIND.class_rows(TASK, labels.tolist()) == {"food": 2, "name": 2}
    outside = np.where(labels == IGNORED, IGNORED, 3)
    assert KIND.scores(TASK, outside, labels) == {
        "precision": 0,
        "recall": 0,
        "f1": 0,
        "accuracy": pytest.approx(2 / 7),
    }
    constant = KIND.constant_answer(TASK, [[IGNORED, 3, 3, 0]], [row.tolist() for row in labels])
    assert constant == KIND.scores(TASK, outside, labels)


def test_tags_that_mark_no_entities_are_scored_one_by_one():
    speech = Task("token-classification", "m", "own", COLUMNS, classes=("NOUN", "VERB"))
    found = KIND.scores(speech, np.array([[0, 0, 1, 0]]), np.array([[0, 1, 1, 0]]))
    assert found["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["accuracy"] == 0.75


def test_bilou_and_tags_without_a_type_are_read_as_they_mean():
    task = Task("token-classification", "m", "own", COLUMNS, classes=("B-p", "I-p", "L-p", "O", "U-p"))
    labels = np.array([[4, 4, 0, 1, 2, 3]])
    assert KIND.class_rows(task, labels.tolist()) == {"p": 3}
    found = KIND.scores(task, np.array([[4, 3, 0, 1, 2, 3]]), labels)
    assert (found["precision"], found["recall"], found["accuracy"]) == (
        1,
        pytest.approx(2 / 3),
        pytest.approx(5 / 6),
    )
    assert KIND.report(task, labels, labels)["classes"][0]["rows"] == 3
    bare = Task("token-classification", "m", "own", COLUMNS, classes=("B-", "I-", "O"))
    labels = np.array([[0, 1, 2, 0]])
    assert KIND.class_rows(bare, labels.tolist()) == {"_": 2}
    assert KIND.report(bare, labels, labels)["classes"] == [
        {"class": "_", "precision": 1.0, "recall": 1.0, "f1": 1.0, "rows": 2}
    ]


def test_outputs_are_kept_where_there_is_a_label():
    logits = torch.tensor([[[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]]])
    assert KIND.kept_outputs((logits,), torch.tensor([[IGNORED, 1, 0]])).tolist() == [[IGNORED, 0, 1]]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(["a", "b"], ["O"]), (["a"], ["B-x"])], "row 1: 2 words in 'tokens' and 1 tags in 'tags'"),
        ([(["a"], ["O"]), ([], [])], "row 2: no words in 'tokens'"),
        (
            [("a b", ["O", "B-x"])],
            r"row 1: column 'tokens' holds 'a b'; expected a list such as \[\"Ada\", \"writes\"\]",
        ),
        ([(["a"], ["O"]), (["b"], ["O"])], "one class only"),
    ],
)
def test_rows_that_do_not_fit_are_refused(write, tiny, rows, words):
    config = RunConfig(
        model=str(tiny), train=str(write(rows)), text="tokens", label="tags", task="token-classification"
    )
    with pytest.raises(InputError, match=words):
        read_tables(config)


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast, name_or_path = False, "some-model"

    with pytest.raises(InputError, match="some-model does not; use a model with a fast tokenizer"):
        KIND.prepare_tokenizer(Slow())


def test_a_run_through_the_command_line(write, tiny, tmp_path):
    rows, out = write(ROWS * 4), tmp_path / "out"
    outcome = corefold(
        "finetune", "--model", tiny, "--train", rows, "--eval", rows, "--text", "tokens", "--label", "tags", "--method",
        "lora", "--steps", 60, "--lr", 0.01, "--head-lr", 0.03, "-o", out,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "task token-classification: 'tokens' holds lists of words; --task changes that" in outcome.err
    after = json.loads((out / "metrics.json").read_text())["after"]
    assert after["f1"] > 0.9
    scores = corefold("evaluate", out, rows, "--json", tmp_path / "s.json")
    assert scores.code == 0, scores.err
    assert json.loads((tmp_path / "s.json").read_text())["f1"] == pytest.approx(after["f1"])
    new = write([(words, ["O"] * len(words)) for words, _ in ROWS], "new.jsonl")
    assert corefold("predict", out, new, "-o", tmp_path / "p.jsonl").code == 0
    predicted = [json.loads(line)["prediction"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert predicted == [tags for _, tags in ROWS]
    one_by_one = predict(load_run(out), str(new), batch_size=1, progress=False)[
        "prediction"
    ]  # of other widths
    assert one_by_one.tolist() == predicted
    assert corefold("merge", out, "-o", tmp_path / "merged").code == 0
    stock = pipeline("token-classification", str(tmp_path / "merged"), device="cpu", ignore_labels=[])
    found = stock("pizza at blue")
    assert [each["entity"] for each in found][:2] == ["B-food", "O"]


def test_an_unknown_tag_and_a_pooled_head_are_refused(write, tiny, tmp_path):
    settings = ("--model", tiny, "--train", write(), "--text", "tokens", "--label", "tags", "--steps", 1)
    new = write([(["a", "b"], ["O", "B-new"])] * 2, "new.jsonl")
    refused(
        corefold("finetune", *settings, "--eval", new, "-o", tmp_path / "a"), "row 1", "'B-new' never occurs"
    )
    refused(corefold("finetune", *settings, "--head", "mean", "-o", tmp_path / "b"), "leave out --head mean")


def test_compare_scores_it_by_f1_and_windows_are_said(write, tiny, tmp_path):
    rows = write([(["word"] * 20, ["O"] * 19 + ["B-end"])] * 10)
    settings = (
        "--model",
        tiny,
        "--train",
        rows,
        "--text",
        "tokens",
        "--label",
        "tags",
        "--max-length",
        8,
        "--steps",
        1,
    )
    outcome = corefold(
        "compare",
        *settings,
        "--methods",
        "lora",
        "--ranks",
        2,
        "--seeds",
        1,
        "--jobs",
        1,
        "-o",
        tmp_path / "cells",
    )
    assert outcome.code == 0, outcome.err
    cell = json.loads((tmp_path / "cells/cells.jsonl").read_text())
    assert (cell["main"], cell["error"], cell["rows"]) == ("f1", None, {"train": 8, "eval": 2})
    outcome = corefold("finetune", *settings, "--method", "lora", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    said = "long texts are read in windows of 8 tokens"
    assert said in outcome.err
    assert json.loads((tmp_path / "out/metrics.json").read_text())["rows"] == {"train": 8, "eval": 2}
    assert said in corefold("evaluate", tmp_path / "out", rows).err
    outcome = corefold("finetune", *settings, "--method", "lora", "--folds", 2, "-o", tmp_path / "folds")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "folds/metrics.json").read_text())["rows"] == {"train": 10, "eval": 10}
