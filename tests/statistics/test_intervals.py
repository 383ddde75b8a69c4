from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inlearn.statistics.intervals import half_width, mean_interval, paired_difference

numbers = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)


@given(numbers, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_of_a_mean_is_scipys(values, level):
    found = mean_interval(values, level)
    assert (found.n, found.mean) == (len(values), pytest.approx(np.mean(values)))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    if found.std > 1e-3:
        low, high = stats.t.interval(level, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_a_known_interval():
    """Five values with mean 3 and variance 2.5: half width t(0.975, 4) sqrt(2.5 / 5) = 2.7764 × 0.70711."""
    found = mean_interval([1, 2, 3, 4, 5])
    assert found.high - 3 == pytest.approx(2.7764451 * math.sqrt(0.5)) and found.low + found.high == pytest.approx(6)


def test_one_value_has_no_interval_and_none_has_no_mean():
    one, none = mean_interval([2.5]), mean_interval([])
    assert one.mean == 2.5 and one.n == 1 and math.isnan(one.std) and math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(none.mean) and none.n == 0
    assert np.isnan(half_width([1.0, 1.0], [1, 0])).all() and half_width(1.0, 4) == pytest.approx(3.1824463 / 2)


@pytest.mark.parametrize("bad", [[1.0, math.inf], [math.nan, 1.0], [[1.0], [2.0]]])
def test_what_is_no_list_of_finite_numbers_is_refused(bad):
    for ask in (mean_interval, lambda values: paired_difference(values, values)):
        with pytest.raises(ValueError, match="finite"):
            ask(bad)


@given(numbers, st.integers(0, 1000))
def test_a_paired_difference_is_scipys(first, seed):
    second = np.asarray(first) + np.random.default_rng(seed).normal(1.0, 2.0, len(first))
    found, known = paired_difference(first, second), stats.ttest_rel(second, first)
    low, high = known.confidence_interval(0.95)
    assert found.difference == pytest.approx(np.mean(second - np.asarray(first)))
    assert (found.p, found.low, found.high) == tuple(
        pytest.approx(x, rel=1e-6, abs=1e-9) for x in (known.pvalue, low, high)
    )


def test_degenerate_pairs():
    assert paired_difference([1, 2, 3], [1, 2, 3]).p == 1.0
    shifted = paired_difference([1, 2, 3], [2, 3, 4])
    assert (shifted.difference, shifted.p, shifted.low, shifted.high) == (1.0, 0.0, 1.0, 1.0)
    single = paired_difference([1.0], [3.0])
    assert single.difference == 2.0 and math.isnan(single.p) and math.isnan(single.low)
    with pytest.raises(ValueError, match="one length"):
        paired_difference([1, 2], [1, 2, 3])


def test_intervals_cover_what_they_promise():
    """4,000 samples of five normal values: the share of intervals that hold the truth, ± 5 standard errors."""
    values = np.random.default_rng(7).normal(3.0, 2.0, (4000, 5))
    half = half_width(values.std(axis=1, ddof=1), 5)
    covered = np.mean(np.abs(values.mean(axis=1) - 3.0) <= half)
    assert abs(covered - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 4000)
