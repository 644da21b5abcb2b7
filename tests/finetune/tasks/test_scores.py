"""Scores against small answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corefold.finetune import Task
from corefold.finetune.data import Columns
from corefold.finetune.encoding import IGNORED
from corefold.finetune.tasks.kind import TaskKind
from corefold.finetune.tasks.kinds import kind_of

CLASSES = Task("classification", "m", "mean", Columns("text", label="label"), classes=("a", "b", "c"))
NUMBERS = Task("regression", "m", "mean", Columns("text", label="label"), shift=10.0, scale=2.0)
TEXT = Task("causal-lm", "m", "lm", Columns("text"))


def test_classes():
    logits = np.array([[2, 1, 0], [0, 3, 1], [1, 0, 0], [0, 1, 0]])
    found = kind_of(CLASSES).scores(CLASSES, logits, np.array([0, 1, 1, 1]))
    assert found["accuracy"] == 0.75
    assert found["f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_numbers_are_scored_in_the_units_of_the_label():
    found = kind_of(NUMBERS).scores(NUMBERS, np.array([[0.0], [1.0], [3.0]]), np.array([0.0, 1.0, 2.0]))
    assert found["mse"] == pytest.approx(2.0**2 / 3)
    assert found["pearson"] == pytest.approx(np.corrcoef([0, 1, 3], [0, 1, 2])[0, 1])
    assert found["spearman"] == pytest.approx(1.0)
    constant = kind_of(NUMBERS).scores(NUMBERS, np.ones(3), np.array([0.0, 1.0, 2.0]))
    assert (constant["pearson"], constant["spearman"]) == (0.0, 0.0)


def test_tokens_are_scored_where_they_are_learned():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORED, IGNORED, 3, 1], [IGNORED, 2, 4, IGNORED]])
    kind = kind_of(TEXT)
    found = kind.scores(TEXT, kind.kept_outputs((logits, None), labels).numpy(), labels.numpy())
    learned = [(0, 1, 3), (0, 2, 1), (1, 0, 2), (1, 1, 4)]  # row, place before the token, token
    losses = [-logits[row, place].log_softmax(-1)[token].item() for row, place, token in learned]
    hits = [int(logits[row, place].argmax()) == token for row, place, token in learned]
    assert found["token_loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-6)
    assert found["token_accuracy"] == np.mean(hits)


def test_the_best_constant_answer():
    assert kind_of(CLASSES).constant_answer(CLASSES, [0, 1, 1, 2], [1, 1, 0, 1]) == pytest.approx(
        {"accuracy": 0.75, "log_loss": -np.log([0.5, 0.5, 0.25, 0.5]).mean()}
    )
    assert kind_of(NUMBERS).constant_answer(NUMBERS, [0.0, 1.0], [0.5, 1.5]) == {"mse": pytest.approx(2.0)}
    assert kind_of(TEXT).constant_answer(TEXT, [], []) == {}


def test_balanced_weights_make_every_class_count_the_same():
    kind, labels = kind_of(CLASSES), torch.tensor([0, 0, 0, 1])
    loss = kind.weighted_loss(CLASSES, labels.tolist())  # class c has no training row
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (each[:3].mean() + each[3]) / 2
    assert loss((logits,), labels).item() == pytest.approx(expected.item())
    halves = [loss((logits[part],), labels[part], num_items_in_batch=4) for part in (slice(2), slice(2, 4))]
    assert sum(halves).item() == pytest.approx(expected.item())  # as Trainer accumulates gradients


def test_a_kind_without_vectorised_intervals_scores_resamples_one_by_one():
    outputs, labels = np.random.default_rng(0).normal(size=(30, 1)), np.random.default_rng(1).normal(size=30)
    kind = kind_of(NUMBERS)
    slow, fast = (
        TaskKind.intervals(kind, NUMBERS, outputs, labels, 0),
        kind.intervals(NUMBERS, outputs, labels, 0),
    )
    for name, interval in slow.items():
        assert interval == pytest.approx(fast[name], abs=0.25 * (fast[name][1] - fast[name][0]))


def test_tokens_of_a_row_are_drawn_together():
    stream = np.random.default_rng(0)
    labels = np.where(np.arange(6) < stream.integers(2, 7, size=(20, 1)), 1, IGNORED)
    outputs = stream.random((20, 6, 2))
    kind = kind_of(TEXT)
    slow = TaskKind.intervals(kind, TEXT, outputs, labels, 0)
    for name, interval in kind.intervals(TEXT, outputs, labels, 0).items():
        assert interval == pytest.approx(slow[name], abs=0.25 * (slow[name][1] - slow[name][0]))
