"""Curves over training: distances to the reference learners, losses, any measure.

Every function takes the long table of evaluations (`inlearn.charts.tables` names its columns) and raises ValueError
where the table holds nothing to draw; ask `tables.evaluated(...)` first where that may happen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from inlearn.charts import tables, theme
from inlearn.charts.axes import ValueScale, kept_apart, step_axis

LABEL_GAP = 15.0  # pixels between two lines of text
NO_FLOORS = pd.DataFrame(
    {"series": pd.Series(dtype=str), "name": pd.Series(dtype=str), "value": pd.Series(dtype=float)}
)


def lines_over_training(
    points: pd.DataFrame,
    styles: Mapping[str, theme.Style],
    title: str,
    floors: pd.DataFrame = NO_FLOORS,
    legend: str | None = None,
    bounds: Mapping[str, float] | None = None,
    scale: ValueScale | None = None,
) -> alt.LayerChart:
    """Curves (step, series, mean, low, high) with bands, and horizontal floors (series, name, value) named in the plot.

    A floor has the looks of its series: a learner's own, or the curve's that it belongs to (then it is dotted).
    A click on a legend entry shows that curve alone. `title` names the values and their unit. `bounds` are named
    limits; they are drawn where they fall inside what the curves and floors span, and never stretch it.
    `scale`: of the values (none: around them).
    """
    if points.empty:
        raise ValueError(f"nothing to draw: no values of '{title}'")
    dotted = set(points["series"]) & set(floors["series"])
    scale = scale or ValueScale.around([*points["mean"], *floors["value"]], [*points["low"], *points["high"]])
    near = {name: value for name, value in (bounds or {}).items() if scale.low <= value <= scale.high}
    if near:
        limits = pd.DataFrame({"series": list(near), "name": list(near), "value": list(near.values())})
        floors = pd.concat([floors, limits], ignore_index=True)
        styles = {**styles, **dict.fromkeys(near, theme.Style(theme.BLACK, theme.BOUND))}
    x = step_axis(points["step"])
    stroke, dash = theme.line_encodings(styles, legend)
    chosen = alt.selection_point(name="chosen", fields=["series"], bind="legend")
    shown = alt.when(chosen).then(alt.value(1.0)).otherwise(alt.value(0.12))
    curves, line = alt.Chart(hovered(points)), (x, scale.axis("mean", title))
    layers: list[alt.Chart] = []
    band = points.dropna(subset=["low", "high"]).assign(low=lambda rows: rows["low"].clip(lower=scale.low))
    if not band.empty:
        area = alt.Chart(theme.coloured(rounded(band), styles)).mark_area(opacity=0.15, strokeWidth=0, clip=True)
        layers.append(area.encode(x, scale.axis("low", title), alt.Y2("high:Q"), theme.FILL, detail="series:N"))
    layers += floor_layers(theme.coloured(floors, styles), scale, title, points, [stroke] if dotted else [stroke, dash])
    layers.append(curves.mark_line(clip=True).encode(*line, stroke, dash, opacity=shown).add_params(chosen))
    # Invisible discs, so that a finger or a pointer near the line finds its values.
    tip = [
        alt.Tooltip("series:N", title="curve"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("mean:Q", title="value", format=".4g"),
        alt.Tooltip("interval:N", title="95 % interval"),
    ]
    layers.append(curves.mark_circle(size=120, opacity=0).encode(*line, tooltip=tip))
    return theme.dress(alt.layer(*layers))


def floor_layers(
    floors: pd.DataFrame,
    scale: ValueScale,
    title: str,
    points: pd.DataFrame,
    looks: Sequence[alt.Stroke | alt.StrokeDash],
) -> list[alt.Chart]:
    """A rule for every floor and its name and value above it, at the end of the plot that the curves leave free.

    `looks` encodes the stroke and, where floors are series of their own, the dash.
    """
    if floors.empty:
        return []
    named = zip(floors["name"], floors["value"], strict=True)
    floors = floors.assign(text=[f"{name} {brief(value)}" for name, value in named])
    rules = alt.Chart(rounded(floors))
    rules = (
        rules.mark_rule(clip=True, strokeWidth=1.5) if len(looks) > 1 else rules.mark_rule(clip=True, strokeDash=[2, 2])
    )
    tip = alt.Tooltip("text:N", title="reference")
    layers = [rules.encode(scale.axis("value", title), *looks, tooltip=[tip])]
    first, last = (points[points["step"] == end(points["step"])]["mean"].map(scale.pixel) for end in (min, max))
    heights = floors["value"].map(scale.pixel)
    clear_left = pd.Series([min(abs(first - height)) >= min(abs(last - height)) for height in heights])
    for left, here in floors.groupby(clear_left.to_numpy()):
        placed = kept_apart([scale.pixel(value) for value in here["value"]], LABEL_GAP, theme.HEIGHT - LABEL_GAP)
        text = alt.Chart(rounded(here.assign(at=[scale.value(height) for height in placed])))
        mark = text.mark_text(align="left" if left else "right", baseline="bottom", dy=-2, dx=6 if left else -6)
        end = alt.XValue(0) if left else alt.XValue("width")
        layers.append(mark.encode(end, scale.axis("at", title), theme.FILL, text="text:N"))
    return layers


def brief(value: float) -> str:
    """Four significant digits, whole numbers in full, and the minus sign that the axes have."""
    return (f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}").replace("-", "−")


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers at six significant digits: all a chart shows, and a third of the page's weight."""
    return table.assign(
        **{name: [float(f"{v:.6g}") for v in table[name]] for name in table if table[name].dtype.kind == "f"}
    )


def hovered(points: pd.DataFrame) -> pd.DataFrame:
    """A curve table with its interval as text, for the notes that appear under the pointer."""
    ends = zip(points["low"], points["high"], strict=True)
    interval = [f"{brief(low)} to {brief(high)}" if low == low else "unknown" for low, high in ends]
    return rounded(points.drop(columns=["low", "high"]).assign(interval=interval))


def distances_over_training(table: pd.DataFrame, set: str) -> alt.LayerChart:
    """Each checkpoint's distance to each reference learner on evaluation set `set`, over training."""
    rows = tables.evaluated(table, "distance", set)
    rows = rows.assign(series=rows["reference"].map(theme.readable))
    styles = theme.learner_styles(rows["reference"])
    return lines_over_training(
        tables.curves(rows, "step", ["series"]),
        {theme.readable(name): style for name, style in styles.items()},
        f"distance of model to learner ({tables.unit_of(rows)})",
        legend="distance to",
    )


def loss_over_training(
    table: pd.DataFrame, training: pd.DataFrame | None, set: str, bounds: Mapping[str, float] | None = None
) -> alt.LayerChart:
    """The model's loss on `set` over training, above the floor of every reference learner.

    `training` (step, loss) adds the loss of the training batches, averaged in bins of log(step). `bounds` are limits
    that no learner passes, by name.
    """
    rows = tables.evaluated(table, "loss", set)
    points = tables.curves(rows, "step").assign(series="model")
    styles = {"model": theme.LEARNERS["model"]}
    if training is not None and not training.empty:
        points = pd.concat([tables.training_curve(training).assign(series="training batches"), points])
        styles["training batches"] = theme.Style(theme.PALE)
    floors, learners = learner_floors(tables.evaluated(table, "loss", set, learner=None))
    return lines_over_training(points, styles | learners, f"loss ({tables.unit_of(rows)})", floors, bounds=bounds)


def learner_floors(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, theme.Style]]:
    """The floors of reference learners' own rows, each a series of its own, and the styles of those."""
    named = rows.assign(series=rows["learner"].map(theme.readable)).assign(name=lambda here: here["series"])
    styles = {theme.readable(name): style for name, style in theme.learner_styles(rows["learner"]).items()}
    return tables.floors(named, ["series", "name"]), styles


def measure_over_training(
    table: pd.DataFrame,
    measure: str,
    set: str,
    by: Sequence[str] = (),
    labels: Mapping[tuple[int, ...], str] | None = None,
    references: Sequence[str] = (),
    title: str | None = None,
) -> alt.LayerChart:
    """A measure of the model over training, one curve for each level of the marks `by`.

    `labels` names levels, e.g. {(0,): "gain 3"}, and leaves out those it does not name. `references` are learners
    whose own values are drawn as floors. `title` stands for the measure's name on the axis.
    """
    rows = tables.evaluated(table, measure, set, by)
    own = tables.evaluated(table, measure, set, by, learner=None)
    own = own[own["learner"].isin(references)]
    title = f"{title or theme.readable(measure)} ({tables.unit_of(rows)})"
    if not by:
        floors, learners = learner_floors(own)
        points = tables.curves(rows, "step").assign(series="model")
        return lines_over_training(points, {"model": theme.LEARNERS["model"]} | learners, title, floors)
    rows, own = named_levels(rows, by, labels), named_levels(own, by, labels)
    own = own.assign(name=own["learner"].map(theme.readable))
    styles = theme.series_styles(list(dict.fromkeys(rows["series"])))
    points = tables.curves(rows, "step", ["series"])
    return lines_over_training(points, styles, title, tables.floors(own, ["series", "name"]))


def named_levels(rows: pd.DataFrame, by: Sequence[str], labels: Mapping[tuple[int, ...], str] | None) -> pd.DataFrame:
    """`rows` with the column `series`: the label of each row's level. Rows whose level has no label are left out."""
    levels = list(zip(*(rows[mark].tolist() for mark in by), strict=True))
    if labels is None:
        labels = {
            level: ", ".join(f"{mark} {value}" for mark, value in zip(by, level, strict=True)) for level in levels
        }
    return rows.assign(series=[labels.get(level) for level in levels]).dropna(subset=["series"])


def measures_over_training(
    table: pd.DataFrame, measures: Mapping[str, str], set: str, title: str, reference: str | None = None
) -> alt.LayerChart:
    """Several measures of one unit, {name: label}, over training; `reference` is a learner drawn as their floors."""
    labelled = table[table["measure"].isin(list(measures))]
    rows = pd.concat([tables.evaluated(labelled, name, set).assign(series=label) for name, label in measures.items()])
    points = tables.curves(rows, "step", ["series"])
    floors = NO_FLOORS
    if reference is not None:
        own = [tables.evaluated(labelled, name, set, (), reference).assign(series=s) for name, s in measures.items()]
        named = pd.concat(own).assign(name=theme.readable(reference))
        floors = tables.floors(named, ["series", "name"])
    styles = theme.series_styles(list(measures.values()))
    return lines_over_training(points, styles, f"{title} ({tables.unit_of(rows)})", floors)


def runs_over_training(table: pd.DataFrame, measure: str, set: str, names: Mapping[str, str]) -> alt.LayerChart:
    """A measure over training with one curve a run, for runs that differ in more than their seed.

    `names` maps the ids of the table's column `run` to what the legend calls them, in its order. A reference
    learner's floor is drawn where it is the same for all of these runs: else no one line is true.
    """
    rows = tables.evaluated(table, measure, set)
    rows = rows[rows["run"].isin(list(names))]
    each = [tables.curves(here, "step").assign(series=names[str(run)]) for run, here in rows.groupby("run")]
    own = tables.evaluated(table, measure, set, learner=None)
    own = own[own["run"].isin(list(names))]
    alike = own.groupby("learner")["mean"].agg(lambda values: values.max() - values.min() <= 1e-9 * values.abs().max())
    floors, learners = learner_floors(own[own["learner"].isin(alike.index[alike.astype(bool)])])
    # Colours tell the runs apart here, so the learners are grey and keep their dashes.
    greys = {name: theme.Style(theme.GREY, style.dash) for name, style in learners.items()}
    styles = theme.series_styles(list(names.values())) | greys
    return lines_over_training(pd.concat(each), styles, f"{theme.readable(measure)} ({tables.unit_of(rows)})", floors)
