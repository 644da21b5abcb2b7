"""Rows to tensors: which texts go where, what labels become, and how batches are padded."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from corefold.finetune import InputError, Task
from corefold.finetune.data import Columns
from corefold.finetune.encoding import IGNORED, Collator
from corefold.finetune.loading import load_tokenizer
from corefold.finetune.tasks.kinds import kind_of

ROWS = pd.DataFrame(
    {"text": ["a joy", "a dull and long film"], "other": ["b", "c d"], "label": ["pos", "neg"]}
)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(str(tiny))


def encode(task, tokenizer, table, source):
    return kind_of(task).encode(task, tokenizer, table, source)


def classes(head, pair=None):
    columns = Columns("text", "other" if pair else None, "label")
    return Task("classification", "m", head, columns, pair=pair, classes=("neg", "pos"))


def test_one_text_and_two_for_each_head(tokenizer):
    one, two = ROWS["text"].tolist(), ROWS["other"].tolist()
    alone, joined = tokenizer(one).input_ids, tokenizer(one, two).input_ids
    assert [row["input_ids"] for row in encode(classes("own"), tokenizer, ROWS, "t")] == alone
    assert [row["input_ids"] for row in encode(classes("own", "joint"), tokenizer, ROWS, "t")] == joined
    assert [row["first"]["input_ids"] for row in encode(classes("mean"), tokenizer, ROWS, "t")] == alone
    joint = encode(classes("mean", "joint"), tokenizer, ROWS, "t")
    assert [row["first"]["input_ids"] for row in joint] == joined
    separate = encode(classes("mean", "separate"), tokenizer, ROWS, "t")
    assert [row["first"]["input_ids"] for row in separate] == alone
    assert [row["second"]["input_ids"] for row in separate] == tokenizer(two).input_ids
    assert [row["labels"] for row in separate] == [1, 0]


def test_numbers_are_standardised_and_a_table_without_labels_has_none(tokenizer):
    task = Task("regression", "m", "mean", Columns("text", label="label"), shift=2.0, scale=4.0)
    rows = encode(task, tokenizer, ROWS.assign(label=[2.0, 4.0]), "t")
    assert [row["labels"] for row in rows] == [0.0, 0.5]
    assert "labels" not in encode(task, tokenizer, ROWS[["text"]], "t")[0]


def test_a_class_that_training_does_not_know_is_refused_by_its_row(tokenizer):
    with pytest.raises(InputError, match=r"eval\.csv, row 2: class 'mixed' never occurs"):
        encode(classes("mean"), tokenizer, ROWS.assign(label=["pos", "mixed"]), "eval.csv")


def test_a_batch_is_padded_part_by_part(tokenizer):
    batch = Collator(tokenizer)(encode(classes("mean", "separate"), tokenizer, ROWS, "t"))
    assert batch["labels"].tolist() == [1, 0]
    for part, column in (("first", "text"), ("second", "other")):
        lengths = [len(ids) for ids in tokenizer(ROWS[column].tolist()).input_ids]
        assert batch[part]["input_ids"].shape == (2, max(lengths))
        assert batch[part]["attention_mask"].sum(1).tolist() == lengths
    plain = Collator(tokenizer)(encode(classes("own"), tokenizer, ROWS, "t"))
    assert torch.equal(plain["input_ids"], batch["first"]["input_ids"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_of_tokens_are_padded_on_the_tokenizer_s_side(tokenizer, monkeypatch, side):
    monkeypatch.setattr(tokenizer, "padding_side", side)
    rows = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = Collator(tokenizer)(rows)
    pad = [IGNORED, IGNORED]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [*pad, 8] if side == "left" else [8, *pad]]
    assert (batch["attention_mask"].bool() | (batch["labels"] == IGNORED)).all()
