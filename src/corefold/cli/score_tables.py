"""Scores with their intervals, folds and classes as tables of text, for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corefold.cli.console import number

# The parts of metrics.json by their names in a report; a part may be empty (causal-lm has no constant answer).
STAGES = {"constant answer": "baseline", "before training": "before", "after training": "after"}
MOST_CLASSES_IN_TEXT = 12

TextTable = tuple[list[str], list[list[str]]]


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval in three digits.

    >>> interval_text([0.7389, 0.9454]), interval_text(None)
    ('0.739 to 0.945', 'none')
    """
    return "none" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"


def stage_table(metrics: Mapping[str, Any]) -> TextTable:
    """A row for each score of a run, with a column for each stage and the interval after training."""
    stages = {label: metrics[key] for label, key in STAGES.items() if metrics[key]}
    intervals = metrics.get("intervals", {})
    names = [name.removesuffix(" training") for name in stages]
    header = [f"{metrics['rows']['eval']:,} rows", *names, *(["95 %"] if intervals else [])]
    rows = [
        [
            name.replace("_", " "),
            *(number(scores.get(name)) for scores in stages.values()),
            *([interval_text(intervals[name]) if name in intervals else ""] if intervals else []),
        ]
        for name in metrics["after"]
        if name != "loss"  # that of training; the other scores say the same in known units
    ]
    return header, rows


def score_table(scores: Mapping[str, float], intervals: Mapping[str, Sequence[float] | None]) -> TextTable:
    """A row for each score with its interval."""
    return ["", "score", "95 %"], [
        [name.replace("_", " "), number(value), interval_text(intervals[name]) if name in intervals else ""]
        for name, value in scores.items()
    ]


def interval_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Lines that say by which rows an interval was made, and why a score has none."""
    intervals, notes = metrics.get("intervals", {}), []
    if "folds" in metrics:
        notes.append(
            f"The intervals of the {metrics['folds']['count']} folds are over all rows, each judged by a model that "
            "did not train on it."
        )
    if missing := [name.replace("_", " ") for name, interval in intervals.items() if interval is None]:
        notes.append(
            f"No interval for {', '.join(missing)}: there is one row, or all resamples of the rows score equally."
        )
    return notes


def fold_table(folds: Mapping[str, Any]) -> TextTable:
    """A row for each fold, and their mean with its intervals."""
    names = [name for name in folds["mean"] if name != "loss"]
    rows = [
        [f"fold {n}", f"{each['rows']['eval']:,}", *(number(each["after"][name]) for name in names)]
        for n, each in enumerate(folds["folds"], 1)
    ]
    mean = ["mean", "", *(number(folds["mean"][name]) for name in names)]
    ends = [
        "95 %",
        "",
        *(interval_text(i) if (i := folds["intervals"].get(name, ())) != () else "" for name in names),
    ]
    return ["", "rows", *(name.replace("_", " ") for name in names)], [*rows, mean, ends]


def class_table(report: Mapping[str, Any], trained: Mapping[str, int] | None = None) -> TextTable:
    """A row for each class with its rows, precision, recall and F1; a class that no row judges has no scores."""
    scores = ["precision", "recall", "f1"]
    header = ["class", *(["trained"] if trained else []), "judged", *scores]
    return header, [
        [
            each["class"],
            *([f"{trained[each['class']]:,}"] if trained else []),
            f"{each['rows']:,}",
            *(f"{each[name]:.2f}" if each["rows"] else "–" for name in scores),
        ]
        for each in report["classes"]
    ]


def confusion_table(report: Mapping[str, Any]) -> TextTable:
    """Rows of each true class by the class that was predicted."""
    names = [each["class"] for each in report["classes"]]
    counts = zip(names, report["confusion"], strict=True)
    return ["true / predicted", *names], [[name, *(f"{count:,}" for count in row)] for name, row in counts]
