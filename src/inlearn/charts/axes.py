"""Axes: training steps on a logarithmic scale that has a place for step 0, and values that choose their own scale."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import altair as alt

from inlearn.charts.theme import HEIGHT

LOG_RATIO = 20.0  # values that span more than this factor are drawn on a logarithmic axis


def _round_numbers(low: float, high: float, parts: Sequence[int]) -> list[float]:
    """part × 10^k within [low, high], ascending; `low` > 0."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [part * 10.0**exponent for exponent in exponents for part in parts]
    return [number for number in numbers if low * (1 - 1e-9) <= number <= high * (1 + 1e-9)]


def step_axis(steps: Iterable[int]) -> alt.X:
    """The field `step` on a symmetric logarithmic scale: linear up to the first step after 0, logarithmic beyond."""
    known = sorted(set(steps))
    first, last = next((step for step in known if step > 0), 1), max(known[-1], 1)
    parts = (1,) if last / first >= 300 else (1, 2, 5)
    ticks = [0, *(round(number) for number in _round_numbers(first, last, parts))]
    scale = alt.Scale(type="symlog", constant=first, domain=[known[0], last], nice=False)
    # An expression, because the scale's own format would write all ticks in the unit of the largest.
    axis = alt.Axis(values=ticks, labelExpr="format(datum.value, '~s')", labelOverlap="greedy", labelFlush=False)
    return alt.X("step:Q", title="training step (log scale, with step 0)", scale=scale, axis=axis)


@dataclass(frozen=True)
class ValueScale:
    """A vertical scale whose limits are known here, so that labels can be kept apart before anything is drawn."""

    low: float
    high: float
    log: bool

    @staticmethod
    def around(means: Sequence[float], ends: Sequence[float]) -> ValueScale:
        """Logarithmic where `means` are positive and span a factor of 20; else linear, with zero in view.

        `ends` of intervals may widen a linear scale by half the range of the means; wider bands are cut.
        """
        low, high = min(means), max(means)
        if low > 0 and high / low > LOG_RATIO:
            return ValueScale(low / 1.3, high * 1.3, True)
        low, high = min(low, 0.0), max(high, 0.0)
        room = (high - low) or 1.0
        finite = [end for end in ends if math.isfinite(end)]
        low = min([low, *(max(end, low - room / 2) for end in finite)])
        high = max([high + 0.05 * room, *(min(end, high + room / 2) for end in finite)])
        return ValueScale(low - (0.05 * room if low < 0 else 0.0), high, False)

    def axis(self, field: str, title: str) -> alt.Y:
        if not self.log:
            scale = alt.Scale(domain=[self.low, self.high], nice=False, zero=False)
            return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6, format="~g"))
        decades = math.log10(self.high / self.low)
        ticks = _round_numbers(self.low, self.high, (1,) if decades > 3 else (1, 2, 5))
        scale = alt.Scale(type="log", domain=[self.low, self.high], nice=False)
        axis = alt.Axis(values=ticks, format="~g", labelOverlap="greedy")
        return alt.Y(f"{field}:Q", title=f"{title}, log scale", scale=scale, axis=axis)

    def pixel(self, value: float) -> float:
        """Height of `value` above the bottom of the plot."""
        at = math.log if self.log else float
        return HEIGHT * (at(value) - at(self.low)) / (at(self.high) - at(self.low))

    def value(self, pixel: float) -> float:
        """Inverse of `pixel`."""
        part = pixel / HEIGHT
        return self.low * (self.high / self.low) ** part if self.log else self.low + part * (self.high - self.low)


def kept_apart(wanted: Sequence[float], gap: float, highest: float) -> list[float]:
    """The positions nearest above `wanted` that are `gap` apart and, as far as they fit, at most `highest`."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    for before, here in itertools.pairwise(order):
        placed[here] = max(placed[here], placed[before] + gap)
    ceiling = highest
    for here in reversed(order):
        placed[here] = min(placed[here], ceiling)
        ceiling = placed[here] - gap
    return placed
