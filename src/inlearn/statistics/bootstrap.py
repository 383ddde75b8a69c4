"""Bootstrap intervals, the same every time: resamples are drawn from a seed that the caller gives.

For statistics or samples to which Student's t does not fit: strongly skewed values, medians, ratios.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic = lambda samples: samples.mean(axis=-1),
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "bca",
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """Both ends of the interval of `statistic`, which maps samples (..., n) to numbers (...).

    "bca" corrects the percentiles for bias and for a deviation that changes with the value (Efron 1987). NaN with
    fewer than two values; the value itself twice where all are equal. ValueError where one is not finite.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("expected one axis of finite numbers")
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    chosen = np.random.default_rng(seed).integers(n, size=(resamples, n))
    drawn = statistic(values[chosen])
    tail = (1 - level) / 2
    places = np.array([tail, 1 - tail])
    if method == "bca" and drawn.min() < drawn.max():
        places = _corrected(places, values, drawn, statistic)
    low, high = np.quantile(drawn, places)
    return float(low), float(high)


def _corrected(
    places: NDArray[np.float64], values: NDArray[np.float64], drawn: NDArray[np.float64], statistic: Statistic
) -> NDArray[np.float64]:
    """The percentiles that BCa takes instead of `places`."""
    n, whole = len(values), statistic(values)
    below = ((drawn < whole).sum() + 0.5 * (drawn == whole).sum()) / len(drawn)
    bias = ndtri(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    left_out = statistic(values[(np.arange(n)[:, None] + np.arange(1, n)) % n])  # jackknife: each value in turn
    deviation = left_out.mean() - left_out
    spread = (deviation**2).sum() ** 1.5
    acceleration = (deviation**3).sum() / (6 * spread) if spread > 0 else 0.0
    normal = bias + ndtri(places)
    return ndtr(bias + normal / (1 - acceleration * normal))
