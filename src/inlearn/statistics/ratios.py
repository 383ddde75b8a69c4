"""Ratios of sums over independent units, each of which adds to both: accuracies over rows, shares of variance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from inlearn.statistics.intervals import half_width


@dataclass(frozen=True)
class Ratio:
    """`low` and `high` are the ends of the interval; NaN where too few units say anything."""

    value: float
    low: float
    high: float
    n: int


def ratio_interval(above: ArrayLike, below: ArrayLike, level: float = 0.95) -> Ratio:
    """sum(above) / sum(below) over units (n,) with Student's t interval by linearisation.

    Units with nothing below and above count for nothing. NaN where all of `below` is 0.
    """
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    counted = (below != 0) | (above != 0)
    above, below = above[counted], below[counted]
    n, total = len(below), below.sum()
    if not total:
        return Ratio(float("nan"), float("nan"), float("nan"), n)
    value = float(above.sum() / total)
    deviations = (above - value * below) * n / total  # what each unit adds to the mean, about 0
    half = float(half_width(np.sqrt((deviations**2).sum() / max(n - 1, 1)), n))
    return Ratio(value, value - half, value + half, n)
