"""Groups without an order, one a line: means with error bars, and what the ideal learners come to on the same rows."""

from __future__ import annotations

import altair as alt
import pandas as pd

from inlearn.charts import theme
from inlearn.charts.axes import ValueScale
from inlearn.charts.training import hovered, rounded

LINE = 24  # pixels a group


def means_of_groups(points: pd.DataFrame, ideal: pd.DataFrame, title: str) -> alt.LayerChart:
    """`points` (series, mean, low, high) as dots with bars, in their order from above; missing ends have no bar.

    `ideal` (series, name, value): a tick of the learner's own colour in the group's line. ValueError for no points.
    """
    if points.empty:
        raise ValueError(f"nothing to draw: no values of '{title}'")
    order = list(dict.fromkeys(points["series"]))
    scale = ValueScale.around([*points["mean"], *ideal["value"]], [*points["low"].dropna(), *points["high"].dropna()])
    y = alt.Y("series:N", title=None, sort=order, axis=alt.Axis(labelLimit=260, grid=True))
    kind = "log" if scale.log else "linear"
    domain = alt.Scale(type=kind, domain=[scale.low, scale.high], nice=False, zero=False)
    named = f"{title}, log scale" if scale.log else title

    def across(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=named, scale=domain, axis=alt.Axis(tickCount=6, format="~g"))

    layers: list[alt.Chart] = []
    bars = points.dropna(subset=["low", "high"])
    bars = bars.assign(low=bars["low"].clip(lower=scale.low), high=bars["high"].clip(upper=scale.high))
    if not bars.empty:
        rules = alt.Chart(rounded(bars)).mark_rule(strokeWidth=1.5, color=theme.BLACK, clip=True)
        layers.append(rules.encode(y, across("low"), alt.X2("high:Q")))
    if not ideal.empty:
        styles = theme.learner_styles(ideal["name"])
        named_ideal = ideal.assign(learner=ideal["name"].map(theme.readable))
        names = [theme.readable(name) for name in styles]
        colours = alt.Scale(domain=names, range=[style.colour for style in styles.values()])
        legend = alt.Legend(title=None, orient="top", columns=3, symbolType="square")
        ticks = alt.Chart(named_ideal).mark_tick(thickness=2, size=LINE * 0.7, clip=True)
        tip = [alt.Tooltip("learner:N", title="ideal learner"), alt.Tooltip("value:Q", format=".4g")]
        layers.append(
            ticks.encode(y, across("value"), alt.Color("learner:N", scale=colours, legend=legend), tooltip=tip)
        )
    tip = [
        alt.Tooltip("series:N", title="group"),
        alt.Tooltip("mean:Q", title="mean", format=".4g"),
        alt.Tooltip("interval:N", title="95 % interval"),
    ]
    dots = alt.Chart(hovered(points)).mark_circle(size=60, opacity=1, color=theme.BLACK, clip=True)
    layers.append(dots.encode(y, across("mean"), tooltip=tip))
    return theme.dress(alt.layer(*layers)).properties(height=max(2, len(order)) * LINE)
