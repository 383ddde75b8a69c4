"""The chart of a claim: a few numbers of every group of runs, over what the groups differ in."""

from __future__ import annotations

import altair as alt
import pandas as pd

from inlearn.charts import theme


def series_over_x(points: pd.DataFrame, x: str, y: str, log_x: bool, log_y: bool, title: str) -> alt.LayerChart:
    """`points` has the columns series, x, y, run: a point for every run, a line through each series' means.

    `x` and `y` name the axes. ValueError where there is nothing to draw or a logarithm does not exist.
    """
    _check(points, log_x, log_y)
    styles = theme.series_styles(list(dict.fromkeys(points["series"])))
    stroke, dash = theme.line_encodings(styles, None)
    across = alt.X("x:Q", title=x, scale=_scale(log_x), axis=alt.Axis(grid=False, values=sorted(points["x"].unique())))
    up = alt.Y("y:Q", title=y + (", log scale" if log_y else ""), scale=_scale(log_y))
    means = points.groupby(["series", "x"], sort=False)["y"].mean().reset_index()
    lines = alt.Chart(means).mark_line().encode(across, up, stroke, dash)
    dots = alt.Chart(theme.coloured(points, styles)).mark_circle(size=40, opacity=1)
    dots = dots.encode(across, up, theme.FILL, tooltip=["series:N", "x:Q", "y:Q", "run:N"])
    return theme.dress(alt.layer(lines, dots).properties(title=title))


def series_over_steps(points: pd.DataFrame, x: str, y: str, log_x: bool, log_y: bool, title: str) -> alt.LayerChart:
    """The same columns: a line for every run over its steps x, and one across at the mean where x is missing.

    On a logarithmic axis step 0 is left out. ValueError as above.
    """
    curves, constant = points[points["x"].notna()], points[points["x"].isna()]
    curves = curves[curves["x"] > 0] if log_x else curves
    _check(curves, log_x, log_y)
    stroke, dash = theme.line_encodings(theme.series_styles(list(dict.fromkeys(points["series"]))), None)
    across = alt.X("x:Q", title=x, scale=_scale(log_x), axis=alt.Axis(grid=False))
    up = alt.Y("y:Q", title=y + (", log scale" if log_y else ""), scale=_scale(log_y))
    lines = alt.Chart(curves).mark_line(strokeOpacity=0.85).encode(across, up, stroke, dash, detail="run:N")
    means = constant.groupby("series", sort=False)["y"].mean().reset_index()
    rules = alt.Chart(means).mark_rule(strokeWidth=1.5).encode(up, stroke, dash)
    return theme.dress(alt.layer(rules, lines).properties(title=title))


def _check(points: pd.DataFrame, log_x: bool, log_y: bool) -> None:
    if points.empty:
        raise ValueError("nothing to draw: the claim's chart has no points")
    for name, log in (("x", log_x), ("y", log_y)):
        if log and (points[name] <= 0).any():
            raise ValueError(f"a logarithmic {name} axis needs positive numbers; the least is {points[name].min():g}")


def _scale(log: bool) -> alt.Scale:
    return alt.Scale(type="log") if log else alt.Scale(zero=True)
