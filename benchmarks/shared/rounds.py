"""Times of several ways to do one thing: rounds in shuffled order, medians and quartiles of ratios within a round.

What slows the machine for a while slows all ways of a round alike, so a ratio within a round is steadier than a ratio
of two means.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

MAX_ROUNDS = 21  # more rounds no longer change the median
Seconds = list[float | None]


@dataclass(frozen=True)
class RoundPlan:
    """How many rounds there are, and who takes part.

    Attributes:
        device: where the steps run.
        min_rounds: the fewest rounds.
        budget: seconds within which further rounds begin, up to `MAX_ROUNDS` in all.
        rare: names of the steps that take part in one of `every` rounds only.
        every: see `rare`.
    """

    device: str
    min_rounds: int
    budget: float
    rare: Sequence[str] = ()
    every: int = 1


def interleave(
    steps: Mapping[str, Callable[[Any], object]], batch: Callable[[int], Any], plan: RoundPlan
) -> dict[str, Seconds]:
    """Time each step once a round.

    Args:
        steps: by name.
        batch: makes the batch of a seed; all steps of a round get the same one.
        plan: the rounds.

    Returns:
        Seconds of each step in each round, None where it did not take part.
    """
    seconds: dict[str, Seconds] = {name: [] for name in steps}
    began, order = time.perf_counter(), random.Random(0)
    for done in range(MAX_ROUNDS):
        if done >= plan.min_rounds and time.perf_counter() - began > plan.budget:
            break
        playing = [name for name in steps if name not in plan.rare or done % plan.every == 0]
        order.shuffle(playing)
        shared_batch = batch(2 + done)
        for name in steps:
            seconds[name].append(None)
        gc.collect()
        gc.disable()
        try:
            for name in playing:
                seconds[name][-1] = timed(steps[name], shared_batch, plan.device)
        finally:
            gc.enable()
    return seconds


def timed(step: Callable[[Any], object], batch: Any, device: str) -> float:
    """Seconds of one step, from an idle GPU to an idle GPU."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    step(batch)
    wait()
    return time.perf_counter() - began


def spread(values: Sequence[float | None]) -> dict[str, float]:
    """Median and quartiles; values that are None are left out."""
    present = [value for value in values if value is not None]
    quarters = statistics.quantiles(present, n=4, method="inclusive") if len(present) > 1 else present * 3
    return dict(zip(("q1", "median", "q3"), quarters, strict=True))


def ratio(over: Seconds, under: Seconds) -> dict[str, float]:
    """Median and quartiles of the ratio within each round in which both took part."""
    return spread([a / b for a, b in zip(over, under, strict=True) if a is not None and b is not None])
