"""Which task a table, a checkpoint and the settings make."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from corefold.finetune import InputError, RunConfig, Task
from corefold.finetune.data import Columns
from corefold.finetune.run_data import class_column
from corefold.finetune.tasks.kinds import choose_kind, comes_whole, make_task

COLUMNS = Columns("text", label="label")


def table(labels):
    return pd.DataFrame({"text": [f"text {i}" for i in range(len(labels))], "label": labels})


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes the configuration of a checkpoint, and files that mark a sentence encoder."""

    def make(sentences: bool = False, **config) -> str:
        (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64, **config}))
        if sentences:
            (tmp_path / "modules.json").write_text("[]")
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["a", "b"] * 4, "classification"),
        ([0, 1] * 4, "classification"),
        ([0.5, 1.0] * 4, "regression"),
        ([*range(60)], "regression"),
        ([f"a text of its own {i}" for i in range(60)], "causal-lm"),
    ],
)
def test_the_labels_suggest_a_kind_unless_the_settings_name_one(labels, kind):
    assert choose_kind(RunConfig(), table(labels), COLUMNS) == kind
    assert choose_kind(RunConfig(task="regression"), table(labels), COLUMNS) == "regression"


def test_without_a_label_the_kind_must_be_named():
    with pytest.raises(InputError, match=r"--label must name the column to learn; .* --task causal-lm"):
        choose_kind(RunConfig(), table([0, 1]), Columns("text"))


def test_a_new_head_has_classes_in_order_of_their_numbers_and_names(checkpoint):
    task = make_task(
        RunConfig(model=checkpoint()), "classification", COLUMNS, table(["10", "b", "9", "-1", "a"] * 2)
    )
    assert (task.head, task.classes, task.outputs) == ("mean", ("-1", "9", "10", "a", "b"), 5)
    assert class_column(task) == "label"
    assert not comes_whole(task)


def test_digits_that_are_no_numbers_are_words(checkpoint):
    names = ["①", "²", "--1", "01", "1", "10", "-2", "٣", "-", "9" * 5000]
    task = make_task(RunConfig(model=checkpoint()), "classification", COLUMNS, table(names * 2))
    assert task.classes[:4] == ("-2", "01", "1", "10")
    assert set(task.classes[4:]) == {"①", "²", "--1", "٣", "-", "9" * 5000}


def test_the_head_of_the_checkpoint_keeps_its_order(checkpoint):
    model = checkpoint(architectures=["BertForSequenceClassification"], id2label={"0": "POS", "1": "NEG"})
    task = make_task(RunConfig(model=model), "classification", COLUMNS, table(["neg", "pos"] * 2))
    assert (task.head, task.classes) == ("own", ("pos", "neg"))
    assert comes_whole(task)
    three = make_task(RunConfig(model=model), "classification", COLUMNS, table(["a", "b", "c"] * 2))
    assert three.head == "mean"


def test_two_embeddings_of_a_sentence_encoder_are_compared_by_their_cosine(checkpoint):
    pairs = Columns("text", "other", "label")
    rows = table([0.0, 2.5, 5.0, 1.0]).assign(other="x")
    task = make_task(RunConfig(model=checkpoint(sentences=True)), "regression", pairs, rows)
    assert (task.pair, task.head, task.shift, task.scale) == ("separate", "cosine", 0.0, 5.0)
    joint = make_task(RunConfig(model=checkpoint(sentences=True), pair="joint"), "regression", pairs, rows)
    assert (joint.pair, joint.head, joint.shift) == ("joint", "mean", 2.125)
    assert joint.scale == pytest.approx(rows["label"].std(ddof=0))


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        ("classification", ["a"] * 4, "one class only, 'a'"),
        ("classification", list("abcd"), "4 different labels in 4 rows do not look like classes"),
        ("regression", [1.5] * 4, "every label in 'label' is 1.5"),
    ],
)
def test_labels_that_teach_nothing_are_refused(checkpoint, kind, labels, words):
    with pytest.raises(InputError, match=words):
        make_task(RunConfig(model=checkpoint(), train="t.csv"), kind, COLUMNS, table(labels))


def test_a_task_is_read_as_it_was_saved(tmp_path):
    task = Task("regression", "m", "cosine", Columns("a", "b", "ä"), pair="separate", shift=0.1, scale=1 / 3)
    task.save(tmp_path / "task.json")
    assert Task.load(tmp_path / "task.json") == task
