"""Intervals against formulas, against all resamples, and by how often they hold the true score."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from corefold.finetune.evaluation.intervals import bootstrap_intervals, row_weights, share_interval


@pytest.mark.parametrize(("hits", "rows"), [(0, 8), (5, 8), (8, 8), (450, 500)])
def test_a_share_has_wilsons_interval(hits, rows):
    share, z = hits / rows, 1.959963984540054
    center = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    assert share_interval(hits, rows) == pytest.approx((center - half, center + half), abs=1e-12)


def mean_of(values):
    return lambda places: {"mean": values[places].mean(-1), "largest": values[places].max(-1)}


def test_the_bootstraps_interval_is_that_of_all_resamples():
    values = np.array([0.3, -1.1, 0.8, 2.0, 0.05, -0.4])
    means = np.array([np.mean(each) for each in product(values, repeat=6)])
    found = bootstrap_intervals(6, mean_of(values), seed=0)
    assert found["mean"] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.1)
    assert found["largest"][1] == 2.0
    assert found == bootstrap_intervals(6, mean_of(values), seed=0)
    assert found != bootstrap_intervals(6, mean_of(values), seed=1)


def test_it_covers_the_mean_about_as_often_as_it_says():
    stream = np.random.default_rng(0)
    ends = [
        bootstrap_intervals(40, mean_of(stream.exponential(size=40)), seed, 500)["mean"]
        for seed in range(150)
    ]
    assert 0.87 <= np.mean([low <= 1 <= high for low, high in ends]) <= 0.98


def test_one_row_and_equal_rows_have_none():
    assert bootstrap_intervals(1, mean_of(np.array([0.5])), seed=0) == {"mean": None, "largest": None}
    assert bootstrap_intervals(9, mean_of(np.full(9, 0.1)), seed=0) == {"mean": None, "largest": None}


def test_weights_count_how_often_a_row_was_drawn():
    places = np.array([[0, 2, 2], [1, 1, 1]])
    assert row_weights(places).tolist() == [[1, 0, 2], [0, 3, 0]]
