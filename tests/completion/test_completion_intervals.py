"""Split-conformal intervals: their width, and how many new entries they cover."""

from __future__ import annotations

import numpy as np
import pytest
from observations import low_rank, with_holes

from corefold.completion import DeepMatrixCompletion
from corefold.completion.distributed import RowPartition
from corefold.completion.entries import observed_entries
from corefold.completion.units import ColumnSpread

WHOLE = low_rank(60, 40, 2)
NOISY = WHOLE + 0.1 * np.random.default_rng(1).standard_normal(WHOLE.shape)


def estimator(**settings):
    return DeepMatrixCompletion(**{"max_rank": 6, "random_state": 0, **settings})


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_intervals_cover_as_much_as_they_say(coverage):
    whole = low_rank(200, 120, 3)
    rng = np.random.default_rng(0)
    noisy = whole + 0.3 * rng.standard_normal(whole.shape)
    hidden = rng.random(whole.shape) < 0.6
    model = estimator(validation_fraction=0.3).fit(np.where(hidden, np.nan, noisy))
    rows, columns = hidden.nonzero()
    lower, upper = model.intervals(rows, columns, coverage)
    covered = ((lower <= noisy[hidden]) & (noisy[hidden] <= upper)).mean()
    assert abs(covered - coverage) < 0.02


def test_intervals_are_as_wide_as_the_errors_held_out():
    holes = with_holes(NOISY, 0.5)
    model = estimator(clip=None).fit(holes)
    calibration = model.model_.calibration
    deviation, errors, columns = (
        each.numpy() for each in (calibration.deviation, calibration.errors, calibration.columns)
    )
    spread = ColumnSpread.of(observed_entries(holes), RowPartition()).deviation.numpy()
    share = np.sqrt(np.mean((errors / spread[columns]) ** 2))
    misses = np.empty(len(errors))
    for place, (error, column) in enumerate(zip(errors, columns, strict=True)):
        others = np.delete(errors, place)[np.delete(columns, place) == column]
        around = (np.sum(others**2) + 10 * (share * spread[column]) ** 2) / (len(others) + 10)
        misses[place] = error / np.sqrt(around)
    place = int(np.ceil((len(misses) + 1) * 0.9))
    lower, upper = model.intervals(
        [3, 4], [5, 6], 0.9
    )  # columns of too few errors to have quantiles of their own
    expected = np.sort(misses)[place - 1] * deviation[[5, 6]]
    np.testing.assert_allclose((upper - lower) / 2, expected, rtol=1e-12)
    for bad, says in ((0.9999, "larger validation_fraction"), (1.0, "between 0 and 1")):
        with pytest.raises(ValueError, match=says):
            model.intervals([0], [0], bad)
    with pytest.raises(ValueError, match="more held-out entries than 0"):
        estimator(validation_fraction=0).fit(holes).intervals([0], [0])
