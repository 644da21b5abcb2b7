"""One sentence on what a run learned, from the content of its metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Judged:
    """A score and its interval; `margin` is how much better than another value it is, whichever way is up."""

    name: str
    value: float
    interval: tuple[float, float] | None
    lower_is_better: bool

    def margin(self, other: float) -> float:
        return other - self.value if self.lower_is_better else self.value - other

    def includes(self, other: float) -> bool:
        if self.interval is None:
            return self.value == other
        return self.interval[0] <= other <= self.interval[1]

    def shown(self, value: float) -> str:
        return f"{value:.3g}" if self.lower_is_better else f"{value:.2f}"

    def against(self, other: float) -> str:
        return f"{self.name} {self.shown(self.value)} against {self.shown(other)}"

    def interval_words(self) -> str:
        low, high = map(self.shown, self.interval or (self.value, self.value))
        return f"interval {low} to {high}"


def verdict(metrics: Mapping[str, Any]) -> str:
    """The sentence: better or not than the best constant answer and the untrained model, and overconfident or not.

    Empty for a run of a version that did not record by which score it is judged.

    >>> interval = {"accuracy": (0.41, 0.63)}
    >>> judged_by = {"score": "accuracy", "lower_is_better": False, "constant": "the majority class"}
    >>> verdict({"judged_by": judged_by, "baseline": {"accuracy": 0.5}, "before": {"accuracy": 0.5},
    ...          "after": {"accuracy": 0.52}, "intervals": interval})
    'no better than the majority class (accuracy 0.52, interval 0.41 to 0.63 includes 0.50)'
    """
    if "judged_by" not in metrics:
        return ""
    by = metrics["judged_by"]
    name, interval = by["score"], metrics.get("intervals", {}).get(by["score"])
    judged = _Judged(name, metrics["after"][name], interval and tuple(interval), by["lower_is_better"])
    constant, before = metrics["baseline"].get(name), metrics["before"].get(name)
    parts = [_learned(judged, constant, before, by["constant"])]
    if judged.interval is None:
        parts.append("too few rows, or too equal ones, for an interval")
    return "; ".join([*parts, *_overconfident(metrics)])


def _learned(judged: _Judged, constant: float | None, before: float | None, constant_name: str) -> str:
    reference, words = (constant, constant_name) if constant is not None else (before, "before training")
    if reference is None:
        return f"{judged.name} {judged.shown(judged.value)}, with nothing to compare it with"
    if judged.includes(reference):
        reason = f"{judged.name} {judged.shown(judged.value)}"
        if judged.interval is not None:
            reason += f", {judged.interval_words()} includes {judged.shown(reference)}"
        return f"no better than {words} ({reason})"
    if judged.margin(reference) < 0:
        return f"worse than {words} ({judged.against(reference)})"
    if before is None:
        return f"learned: {judged.against(reference)} of {words}"
    if judged.margin(before) <= 0:
        return f"better than {words}, yet training added nothing ({judged.against(before)} before)"
    if judged.includes(before):
        return (
            f"better than {words}; the gain over before lies within the interval ({judged.against(before)} before, "
            f"{judged.interval_words()})"
        )
    if judged.lower_is_better:
        return f"learned: {judged.against(before)} before"
    return f"learned: {100 * judged.margin(before):+.0f} points of {judged.name} over before"


def _overconfident(metrics: Mapping[str, Any]) -> list[str]:
    loss, constant = metrics["after"].get("log_loss"), metrics["baseline"].get("log_loss")
    if loss is None or constant is None or round(loss, 2) <= round(constant, 2):
        return []
    confidence = metrics.get("report", {}).get("confidence", 0.0)
    what = "overconfident: loss" if confidence > metrics["after"]["accuracy"] else "loss"
    return [f"{what} {loss:.2f} against {constant:.2f} for a constant"]
