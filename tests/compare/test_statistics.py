"""The paired statistics against the obvious answers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from corefold.compare.statistics import bootstrap_interval, interval_name, mean_interval, paired, spread


def test_the_interval_is_that_of_all_resamples():
    values = np.array([0.3, -1.1, 0.8, 2.0, 0.05, -0.4])
    means = np.array([np.mean(each) for each in product(values, repeat=6)])  # every resample there is
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.05)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.05)
    narrow = bootstrap_interval(values, level=0.5)
    assert narrow[0] == pytest.approx(np.quantile(means, 0.25), abs=0.03)
    assert low < narrow[0] < narrow[1] < high


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    stream = np.random.default_rng(0)
    samples = stream.exponential(size=(200, 40)) - 1  # skewed, of mean 0
    inside = [low <= 0 <= high for low, high in map(bootstrap_interval, samples)]
    assert 0.88 <= np.mean(inside) <= 0.98


def test_the_interval_is_the_same_each_time_and_of_one_value_that_value():
    values = np.random.default_rng(1).normal(size=7)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    assert bootstrap_interval(np.array([0.25])) == (0.25, 0.25)
    with pytest.raises(ValueError, match="needs values"):
        bootstrap_interval(np.array([]))
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(values, level=95.0)


def test_fewer_than_six_values_have_students_interval():
    values = np.array([0.1, 0.3, 0.2, 0.6, 0.4])
    half = 2.7764451051977934 * values.std(ddof=1) / np.sqrt(5)  # the quantile for four degrees of freedom
    assert mean_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-9)
    low, high = bootstrap_interval(values)
    assert high - low < 0.7 * 2 * half
    six = np.append(values, 0.25)
    assert mean_interval(six) == bootstrap_interval(six)
    assert interval_name(5) == "5 seeds: interval by Student's t"
    assert interval_name(6) == "6 seeds: interval by the bootstrap"


def test_the_interval_of_three_values_covers_the_mean_as_often_as_it_says():
    stream = np.random.default_rng(0)
    ends = [mean_interval(stream.normal(size=3)) for _ in range(400)]
    assert 0.92 <= np.mean([low <= 0 <= high for low, high in ends]) <= 0.98


def test_one_value_and_equal_values_have_no_interval():
    assert mean_interval(np.array([0.25])) is None
    assert mean_interval(np.full(8, 0.1)) is None
    found = paired({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}, interval=mean_interval)
    assert found is not None
    assert np.isnan([found.low, found.high]).all()
    assert interval_name(1) == "1 seed: no interval"


def test_pairs_are_the_seeds_that_both_have():
    scores, baseline = {0: 0.9, 1: 0.7, 2: 0.5, 7: 0.0}, {0: 0.8, 1: 0.75, 2: 0.5, 9: 1.0}
    found = paired(scores, baseline)
    assert found is not None
    assert (found.pairs, found.wins, found.losses) == (3, 1, 1)
    assert found.mean == pytest.approx((0.1 - 0.05 + 0) / 3)
    assert found.low <= found.mean <= found.high
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_where_lower_is_better_the_lower_wins_and_the_difference_keeps_its_sign():
    found = paired({0: 3.0, 1: 3.5}, {0: 4.0, 1: 3.0}, lower_is_better=True)
    assert found is not None
    assert (found.wins, found.losses) == (1, 1)
    assert found.mean == pytest.approx(-0.25)


def test_pairing_sees_what_the_spread_hides():
    stream = np.random.default_rng(2)
    easy = stream.normal(0.7, 0.1, size=10)  # seeds differ far more than methods do
    better = easy + 0.01 + stream.normal(0, 0.002, size=10)
    found = paired(dict(enumerate(better)), dict(enumerate(easy)))
    assert found is not None
    assert found.low > 0
    assert (spread(better) or 0) > 5 * found.mean


def test_the_spread_is_the_sample_standard_deviation():
    assert spread(np.array([1.0, 2.0, 4.0])) == pytest.approx(np.sqrt(7 / 3))
    assert spread(np.array([1.0])) is None
