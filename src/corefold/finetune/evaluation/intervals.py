"""95 % intervals of scores, over the rows that judge: Wilson's for a share, the bootstrap's for all else.

An interval says how far a score would move with other rows of the same kind. It says nothing about other training rows
or seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import binomtest, bootstrap

LEVEL = 0.95
RESAMPLES, FEWEST_RESAMPLES = 2000, 400
RESAMPLED_ROWS = 4 * 10**6  # in all: with many rows, fewer resamples give ends as exact
BATCH_NUMBERS = 10**7  # places that are resampled at once

Interval = tuple[float, float]
Intervals = dict[str, Interval | None]
Statistic = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def share_interval(hits: int, rows: int) -> Interval:
    """Wilson's interval of a share (1927), which holds for few rows and for shares of 0 and 1.

    >>> [round(end, 2) for end in share_interval(20, 20)]
    [0.84, 1.0]
    """
    found = binomtest(hits, rows).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def bootstrap_intervals(rows: int, statistic: Statistic, seed: int, resamples: int = RESAMPLES) -> Intervals:
    """Percentile intervals of the bootstrap over rows (Efron 1979), by scipy.

    Args:
        rows: number of rows.
        statistic: from places of rows, (resamples, rows), the scores of each resample, (resamples,).
        seed: seed of the resampling.
        resamples: the most resamples; many rows get fewer.

    Returns:
        For each score its interval; None where there is none, since there is one row, or all resamples score equally.
    """
    names = list(statistic(np.arange(rows)[None]))
    if rows < 2:
        return dict.fromkeys(names)

    def scores(places: np.ndarray, axis: int = -1) -> np.ndarray:
        found = statistic(np.atleast_2d(places))
        return np.stack([found[name] for name in names]).reshape(len(names), *places.shape[:-1])

    interval = bootstrap(
        (np.arange(rows),),
        scores,
        n_resamples=min(resamples, max(FEWEST_RESAMPLES, RESAMPLED_ROWS // rows)),
        batch=max(1, BATCH_NUMBERS // rows),
        confidence_level=LEVEL,
        method="percentile",
        random_state=np.random.default_rng(seed),  # type: ignore[call-arg]  # scipy 1.15 renamed it, and takes both
    ).confidence_interval
    ends = zip(names, np.atleast_1d(interval.low), np.atleast_1d(interval.high), strict=True)
    # A difference as small as rounding is no interval either.
    return {
        name: (float(low), float(high)) if high - low > 1e-12 * abs(high) else None
        for name, low, high in ends
    }


def row_weights(places: np.ndarray) -> np.ndarray:
    """How often each row was drawn, (resamples, rows): sums over a resample are products with this matrix."""
    count, rows = places.shape
    shifted = places + rows * np.arange(count)[:, None]
    return np.bincount(shifted.ravel(), minlength=count * rows).reshape(count, rows).astype(float)
