"""Scores, intervals and reports of classes and numbers against small answers, and resamples scored one by one."""

from __future__ import annotations

import numpy as np
import pytest

from corefold.finetune.evaluation import classes, numbers
from corefold.finetune.evaluation.classes import class_intervals, class_report, class_scores, constant_scores
from corefold.finetune.evaluation.intervals import share_interval
from corefold.finetune.evaluation.numbers import number_intervals, number_scores


def example(rows: int = 25, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    stream = np.random.default_rng(1)
    labels = stream.integers(0, count, rows)
    return stream.normal(size=(rows, count)) + 1.5 * np.eye(count)[labels], labels


def test_log_loss_and_calibration():
    logits = np.log([[0.9, 0.1], [0.82, 0.18], [0.85, 0.15], [0.4, 0.6]])
    found = class_scores(logits, np.array([0, 1, 0, 1]))
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.18, 0.85, 0.6]).mean())
    # The bins of 0.9, of 0.82 and 0.85, and of 0.6: surplus of hits over probabilities in each.
    assert found["calibration_error"] == pytest.approx((0.1 + abs(1 - 1.67) + 0.4) / 4)


def test_the_constant_answer_knows_only_the_shares_in_training():
    assert constant_scores([0, 1, 1, 1], [0, 1], 2) == pytest.approx(
        {"accuracy": 0.5, "log_loss": -np.log([0.25, 0.75]).mean()}
    )
    assert constant_scores([0, 0], [1], 2)["log_loss"] == pytest.approx(-np.log(1 / 4))


def resampled_scores(monkeypatch, module, score, make):
    """The intervals' own resamples, and each of them scored alone."""
    seen = {}

    def watched(rows, statistic, seed, *more):
        places = np.random.default_rng(3).integers(rows, size=(6, rows))
        seen["together"] = statistic(places)
        seen["alone"] = [score(each) for each in places]
        return {}

    monkeypatch.setattr(module, "bootstrap_intervals", watched)
    make()
    for name, values in seen["together"].items():
        assert values == pytest.approx([each[name] for each in seen["alone"]], abs=1e-12), name
    return seen["together"]


def test_resamples_of_classes_are_scored_as_if_alone(monkeypatch):
    logits, labels = example()
    labels[labels == 3] = 2  # a class that is predicted, and never true

    def score(places):
        return class_scores(logits[places], labels[places])

    together = resampled_scores(monkeypatch, classes, score, lambda: class_intervals(logits, labels, 0))
    assert {*together} == {"f1_macro", "log_loss", "calibration_error"}


def test_resamples_of_numbers_are_scored_as_if_alone(monkeypatch):
    stream = np.random.default_rng(2)
    true = stream.integers(0, 5, 12).astype(float)  # with ties
    predicted = true + stream.normal(size=12)

    def score(places):
        return number_scores(predicted[places], true[places])

    together = resampled_scores(monkeypatch, numbers, score, lambda: number_intervals(predicted, true, 0))
    assert {*together} == {*number_scores(predicted, true)}


def test_intervals_hold_their_scores():
    logits, labels = example(60)
    scores, intervals = class_scores(logits, labels), class_intervals(logits, labels, 0)
    assert {*scores} == {*intervals}
    for name in ("accuracy", "f1_macro", "log_loss"):
        assert intervals[name][0] < scores[name] < intervals[name][1]
    assert intervals["accuracy"] == share_interval(round(60 * scores["accuracy"]), 60)
    constant = number_intervals(np.ones(8), np.arange(8.0), 0)
    assert (constant["pearson"], constant["spearman"]) == (None, None)
    assert constant["mse"] is not None


def test_the_report_counts_each_class_whatever_its_name():
    logits = np.eye(3)[[0, 1, 1, 0]]
    found = class_report(logits, np.array([0, 1, 0, 0]), ["accuracy", "b", "never"])
    assert found["confusion"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert [each["rows"] for each in found["classes"]] == [3, 1, 0]
    first = found["classes"][0]
    assert first == pytest.approx(
        {"class": "accuracy", "precision": 1, "recall": 2 / 3, "f1": 0.8, "rows": 3}
    )
    assert found["confidence"] == pytest.approx(np.e / (np.e + 2))
