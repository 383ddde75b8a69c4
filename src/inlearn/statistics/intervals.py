"""Means of runs with their uncertainty: Student's t, single and paired. Arrays in, arrays out.

With one value a mean has no interval: the ends are NaN, never zero-width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def half_width(std: ArrayLike, n: ArrayLike, level: float = 0.95) -> NDArray[np.float64]:
    """Half of Student's t interval of a mean of `n` values with sample deviation `std` (ddof 1), elementwise.

    In the unit of `std`; NaN where n < 2.
    """
    std, n = np.broadcast_arrays(np.asarray(std, dtype=float), np.asarray(n))
    found = np.full(std.shape, np.nan)
    known = n >= 2
    found[known] = stats.t.ppf(0.5 + level / 2, n[known] - 1) * std[known] / np.sqrt(n[known])
    return found


@dataclass(frozen=True)
class Mean:
    """`std` is the sample's (ddof 1); `low` and `high` are the ends of the interval. NaN where n is too small."""

    mean: float
    std: float
    low: float
    high: float
    n: int


def mean_interval(values: ArrayLike, level: float = 0.95) -> Mean:
    """Mean of `values` (n,) with Student's t interval. ValueError where one is not finite."""
    values = _finite(values)
    n = len(values)
    mean = float(values.mean()) if n else float("nan")
    std = float(values.std(ddof=1)) if n > 1 else float("nan")
    half = float(half_width(std, n, level))
    return Mean(mean, std, mean - half, mean + half, n)


@dataclass(frozen=True)
class Paired:
    """Mean of second - first over `n` pairs, its interval, and the two-sided p-value of "no difference"."""

    difference: float
    std: float
    low: float
    high: float
    p: float
    n: int


def paired_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Paired:
    """Student's t for the differences second - first (n,), value by value. ValueError where lengths differ.

    With fewer than two pairs, interval and p are NaN. Where all differences are one number other than 0, p is 0.
    """
    first, second = _finite(first), _finite(second)
    if first.shape != second.shape:
        raise ValueError(f"pairs need two arrays of one length; these have {len(first)} and {len(second)}")
    found = mean_interval(second - first, level)
    p = float("nan")
    if found.n > 1:
        error = found.std / np.sqrt(found.n)
        t = found.mean / error if error > 0 else (np.inf if found.mean else 0.0)
        p = float(2 * stats.t.sf(abs(t), found.n - 1))
    return Paired(found.mean, found.std, found.low, found.high, p, found.n)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("expected one axis of finite numbers")
    return values
