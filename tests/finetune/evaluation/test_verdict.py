"""The sentence on a run, case by case."""

from __future__ import annotations

import pytest

from corefold.finetune.evaluation.verdict import verdict


def classes(after, interval, before=0.5, **changed):
    return {
        "judged_by": {"score": "accuracy", "lower_is_better": False, "constant": "the majority class"},
        "baseline": {"accuracy": 0.5, "log_loss": 0.69},
        "before": {"accuracy": before},
        "after": {"accuracy": after, "log_loss": changed.get("loss", 0.4)},
        "intervals": {"accuracy": interval},
        "report": {"confidence": changed.get("confidence", 0.9)},
    }


def errors(score, after, interval, constant=None, before=None):
    return {
        "judged_by": {"score": score, "lower_is_better": True, "constant": "the mean of the training labels"},
        "baseline": {} if constant is None else {score: constant},
        "before": {} if before is None else {score: before},
        "after": {score: after},
        "intervals": {score: interval},
    }


CASES = [
    (classes(0.65, [0.57, 0.73]), "learned: +15 points of accuracy over before"),
    (
        classes(0.65, [0.57, 0.73], loss=1.13),
        "learned: +15 points of accuracy over before; overconfident: loss 1.13 against 0.69 for a constant",
    ),
    (
        classes(0.65, [0.57, 0.73], loss=0.71, confidence=0.5),
        "learned: +15 points of accuracy over before; loss 0.71 against 0.69 for a constant",
    ),
    (
        classes(0.52, [0.41, 0.63]),
        "no better than the majority class (accuracy 0.52, interval 0.41 to 0.63 includes 0.50)",
    ),
    (classes(0.3, [0.2, 0.4]), "worse than the majority class (accuracy 0.30 against 0.50)"),
    (
        classes(0.8, [0.7, 0.9], before=0.85),
        "better than the majority class, yet training added nothing (accuracy 0.80 against 0.85 before)",
    ),
    (
        classes(0.8, [0.7, 0.9], before=0.75),
        "better than the majority class; the gain over before lies within the interval (accuracy 0.80 against 0.75 "
        "before, interval 0.70 to 0.90)",
    ),
    (
        errors("mse", 1.0, [0.5, 1.5], constant=2.0, before=4.0),
        "learned: mse 1 against 4 before",
    ),
    (
        errors("mse", 1.9, [1.1, 2.5], constant=2.0, before=4.0),
        "no better than the mean of the training labels (mse 1.9, interval 1.1 to 2.5 includes 2)",
    ),
    (
        errors("mse", 3.0, [2.5, 3.5], constant=2.0, before=4.0),
        "worse than the mean of the training labels (mse 3 against 2)",
    ),
    (errors("perplexity", 61.2, [50.0, 70.0], before=73.6), "learned: perplexity 61.2 against 73.6 before"),
    (
        errors("perplexity", 61.2, [50.0, 80.0], before=73.6),
        "no better than before training (perplexity 61.2, interval 50 to 80 includes 73.6)",
    ),
    (errors("mse", 1.0, None, constant=2.0, before=2.0), "learned: mse 1 against 2 before; too few rows, or too equal "
                                                          "ones, for an interval"),
    (errors("mse", 1.0, [0.5, 1.5]), "mse 1, with nothing to compare it with"),
]  # fmt: skip


@pytest.mark.parametrize(("metrics", "sentence"), CASES)
def test_the_verdict(metrics, sentence):
    assert verdict(metrics) == sentence


def test_a_run_of_an_older_version_has_none():
    assert verdict({"baseline": {}, "before": {}, "after": {"accuracy": 0.5}}) == ""
