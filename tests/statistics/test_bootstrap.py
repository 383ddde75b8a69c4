from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from inlearn.statistics.bootstrap import bootstrap_interval


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_it_is_near_scipys(method, statistic):
    values = np.random.default_rng(3).exponential(2.0, 25)
    known = stats.bootstrap((values,), statistic, method=method, n_resamples=20000, rng=5).confidence_interval
    found = bootstrap_interval(values, lambda samples: statistic(samples, axis=-1), method=method, resamples=20000)
    assert found == (pytest.approx(known.low, rel=0.03), pytest.approx(known.high, rel=0.03))


def test_the_seed_decides():
    values = np.random.default_rng(0).normal(size=12)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_few_or_equal_values():
    assert all(map(math.isnan, bootstrap_interval([1.0]))) and all(map(math.isnan, bootstrap_interval([])))
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval([1.0, math.inf])


def test_bca_covers_a_skewed_mean_at_least_as_well_as_percentiles():
    rng = np.random.default_rng(11)
    samples = rng.lognormal(0.0, 0.8, (400, 20))
    truth = math.exp(0.32)
    covered = {}
    for method in ("percentile", "bca"):
        ends = np.array([bootstrap_interval(values, method=method, resamples=999) for values in samples])
        covered[method] = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    assert 0.84 < covered["percentile"] <= covered["bca"] + 0.01 and covered["bca"] < 0.99
