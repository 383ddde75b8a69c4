"""Groups of runs: an ordered scale of colours for their levels, and values against an axis in which they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from inlearn.charts import theme
from inlearn.charts.axes import ValueScale
from inlearn.charts.training import hovered, rounded

# From dark violet to ochre, equal steps in lightness (after viridis, without the yellow that is too pale on white).
RAMP = ("#440154", "#414487", "#2a788e", "#22a884", "#7ab52f", "#c2a600")
FEW = 6  # more levels than these are told apart by dashes too
LOG_RATIO = 8.0  # levels that span this factor stand on a logarithmic axis
DODGE = 0.004  # of the axis: curves stand this far apart at a level, so that their bars do not hide each other
ENDLESS = "∞"


def ordered_styles(names: Sequence[str]) -> dict[str, theme.Style]:
    """Styles for levels with an order, from dark to light; of many, neighbours differ in their dashes as well."""
    dashes = ((), (8, 2), (3, 2)) if len(names) > FEW else ((),)
    places = [i / max(len(names) - 1, 1) for i in range(len(names))]
    return {
        name: theme.Style(_ramp(place), dashes[i % len(dashes)])
        for i, (name, place) in enumerate(zip(names, places, strict=True))
    }


def _ramp(place: float) -> str:
    """The colour at `place` in [0, 1]."""
    at = place * (len(RAMP) - 1)
    left = min(int(at), len(RAMP) - 2)
    ends = [[int(RAMP[i][k : k + 2], 16) for k in (1, 3, 5)] for i in (left, left + 1)]
    mixed = (round(a + (b - a) * (at - left)) for a, b in zip(*ends, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def level_number(level: Any) -> float | None:
    """A level as a place on a numeric axis ("inf" is infinite); None for one that is no number."""
    if isinstance(level, bool) or not isinstance(level, int | float | str):
        return None
    if isinstance(level, str) and level not in ("inf", "infinite"):
        return None
    return float(level.removesuffix("inite")) if isinstance(level, str) else float(level)


def values_against(
    points: pd.DataFrame,
    styles: Mapping[str, theme.Style],
    axis: str,
    title: str,
    legend: str | None = None,
    scale: ValueScale | None = None,
) -> alt.LayerChart:
    """`points` (series, at, mean, low, high) as lines with error bars against `at`; missing ends have no bar.

    `at` are numbers, infinity among them: it stands at the right, marked as such. The axis is logarithmic where the
    numbers are positive and span a factor of 8. `scale`: of the values (none: around them). ValueError where there is
    nothing to draw.
    """
    finite = sorted({at for at in points["at"] if math.isfinite(at)})
    if not finite:
        raise ValueError(f"nothing to draw: no values of '{title}' at a finite level of '{axis}'")
    log = finite[0] > 0 and finite[-1] / finite[0] >= LOG_RATIO
    places = {at: math.log2(at) if log else at for at in finite}
    room = (max(places.values()) - min(places.values())) or 1.0
    if points["at"].max() == math.inf:
        places[math.inf] = max(places.values()) + max(room / 8, room / len(finite))
    shift = {name: (i - (len(styles) - 1) / 2) * room * DODGE for i, name in enumerate(styles)}
    names = {at: ENDLESS if at == math.inf else f"{at:g}" for at in places}
    points = points.assign(level=points["at"].map(names), at=points["at"].map(places) + points["series"].map(shift))
    scale = scale or ValueScale.around(points["mean"].tolist(), [*points["low"].dropna(), *points["high"].dropna()])
    x, y = _axis({place: names[at] for at, place in places.items()}, axis, log, room), scale.axis("mean", title)
    stroke, dash = theme.line_encodings(styles, legend)
    bars = points.dropna(subset=["low", "high"])
    bars = bars.assign(low=bars["low"].clip(lower=scale.low), high=bars["high"].clip(upper=scale.high))
    tip = [
        alt.Tooltip("series:N", title="curve"),
        alt.Tooltip("level:N", title=axis),
        alt.Tooltip("mean:Q", title="value", format=".4g"),
        alt.Tooltip("interval:N", title="95 % interval"),
    ]
    layers: list[alt.Chart] = []
    if not bars.empty:
        # `opacity` would be the legend's too, whose colours would then not be the curves'.
        pale = {"strokeWidth": 1.5, "strokeOpacity": 0.6, "clip": True}
        rules = alt.Chart(theme.coloured(rounded(bars), styles)).mark_rule(**pale)
        colour = alt.Stroke("colour:N", scale=None)
        layers.append(rules.encode(x, scale.axis("low", title), alt.Y2("high:Q"), colour))
    shown = alt.Chart(theme.coloured(hovered(points), styles))
    layers.append(shown.mark_line(clip=True).encode(x, y, stroke, dash))
    layers.append(shown.mark_circle(size=40, opacity=1, clip=True).encode(x, y, theme.FILL, tooltip=tip))
    return theme.dress(alt.layer(*layers))


def _axis(names: Mapping[float, str], axis: str, log: bool, room: float) -> alt.X:
    """Ticks at the levels alone, each with its name; a margin keeps points off the frame."""
    # The tick's own number may differ from the level's in its last digit.
    label = " : ".join(f"abs(datum.value - {place!r}) < 1e-9 ? '{name}'" for place, name in names.items()) + " : ''"
    ticks = alt.Axis(values=sorted(names), labelExpr=label, labelOverlap="greedy", labelSeparation=6, grid=False)
    low, high = min(names) - 0.04 * room, max(names) + 0.04 * room
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    return alt.X("at:Q", title=f"{axis} (log scale)" if log else axis, scale=scale, axis=ticks)
