"""Ratios of sums over units: Student's interval where units weigh alike, coverage where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from inlearn.statistics.ratios import ratio_interval


def test_intervals_of_a_mean_are_students_and_those_of_a_ratio_cover():
    values = np.array([0.2, 0.9, 0.4, 0.7])
    found = ratio_interval(values, np.ones(4))
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        count = draw.integers(1, 30, 60)
        level = draw.beta(2, 3, 60)  # rows differ, positions of a row are alike
        right = draw.binomial(count, level)
        interval = ratio_interval(right, count)
        covered += interval.low <= 0.4 <= interval.high
    assert 915 < covered < 975
    nothing = ratio_interval([0.0, 0.0], [0.0, 0.0])
    assert np.isnan(nothing.value) and nothing.n == 0
    assert np.isnan(ratio_interval([1.0, 0.0], [2.0, 0.0]).low)
