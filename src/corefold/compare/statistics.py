"""How two methods compare over the same seeds: pure functions of their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import sem, t

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST_FOR_BOOTSTRAP = 6  # with fewer seeds the bootstrap's interval is far too narrow


@dataclass(frozen=True)
class Paired:
    """A method's scores less another's, seed by seed.

    Attributes:
        pairs: number of seeds that both methods have.
        mean: mean of the differences.
        low, high: ends of the interval of that mean; NaN where there is none.
        wins, losses: number of seeds at which the method is better, and worse; ties are neither.
    """

    pairs: int
    mean: float
    low: float
    high: float
    wins: int
    losses: int


def spread(scores: Float[np.ndarray, " seeds"]) -> float | None:
    """The sample standard deviation, which divides by n - 1; None for fewer than two scores."""
    return float(scores.std(ddof=1)) if len(scores) > 1 else None


def bootstrap_interval(
    values: Float[np.ndarray, " seeds"], level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean (Efron 1979): quantiles of the means of resampled values.

    With few values it is too narrow: that of ten covers the mean too rarely, and that of one value is a point.

    Args:
        values: independent values, one for each seed.
        level: share of the resampled means that the interval holds.
        seed: seed of the resampling.

    Raises:
        ValueError: no values, or a level not between 0 and 1.
    """
    if not len(values) or not 0 < level < 1:
        raise ValueError(f"an interval needs values and a level between 0 and 1; got {len(values)}, {level}")
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(values: Float[np.ndarray, " seeds"], level: float = LEVEL) -> tuple[float, float] | None:
    """The interval of a mean: Student's t for fewer than six values, otherwise the bootstrap's.

    None for one value, and for values that are all equal: they do not say how far the next one may lie.
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    if len(values) >= FEWEST_FOR_BOOTSTRAP:
        return bootstrap_interval(values, level)
    low, high = t.interval(level, len(values) - 1, loc=values.mean(), scale=sem(values))
    return float(low), float(high)


def interval_name(seeds: int) -> str:
    """How the interval over this many seeds is made.

    >>> interval_name(3)
    "3 seeds: interval by Student's t"
    """
    if seeds < 2:
        return f"{seeds} seed: no interval"
    return f"{seeds} seeds: interval by " + (
        "Student's t" if seeds < FEWEST_FOR_BOOTSTRAP else "the bootstrap"
    )


def paired(
    scores: Mapping[int, float],
    baseline: Mapping[int, float],
    *,
    lower_is_better: bool = False,
    interval: Callable[[np.ndarray], tuple[float, float] | None] = bootstrap_interval,
) -> Paired | None:
    """`scores - baseline` over the seeds that both have; None if there is no such seed.

    Args:
        scores: scores of the method by seed.
        baseline: scores of the method that it is compared with, by seed.
        lower_is_better: whether the lower score wins; the differences keep their sign.
        interval: from the differences, the interval of their mean, or None.

    >>> paired({0: 0.8, 1: 0.9, 2: 0.7}, {0: 0.7, 1: 0.8, 5: 0.1}).wins
    2
    """
    seeds = sorted(scores.keys() & baseline.keys())
    if not seeds:
        return None
    differences = np.array([scores[seed] - baseline[seed] for seed in seeds])
    better = -differences if lower_is_better else differences
    low, high = interval(differences) or (math.nan, math.nan)
    return Paired(
        len(seeds), float(differences.mean()), low, high, int((better > 0).sum()), int((better < 0).sum())
    )
