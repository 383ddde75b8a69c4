"""Curves along the context: how the loss falls as more of the context is seen."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from inlearn.charts import tables, theme
from inlearn.charts.axes import ValueScale
from inlearn.charts.training import hovered


def loss_per_position(
    table: pd.DataFrame,
    set: str,
    mark: str = "position",
    steps: Sequence[int] | None = None,
    references: Sequence[str] | None = None,
    title: str = "examples seen before the question",
) -> alt.LayerChart:
    """Loss at each level of `mark` on evaluation set `set`: the model at chosen steps, against reference learners.
    Without a model in the table, the learners alone.

    `steps` are the model's (default: five spread in log(1 + step)), `references` the learners' names (default: all),
    `title` names the horizontal axis. ValueError where the table holds nothing to draw.
    """
    rows = tables.evaluated(table, "loss", set, (mark,))
    own = tables.evaluated(table, "loss", set, (mark,), learner=None)
    own = own if references is None else own[own["learner"].isin(references)]
    if rows.empty and own.empty:
        raise ValueError(f"nothing to draw: no loss by {mark} on evaluation set '{set}'")
    chosen = tables.chosen_steps(rows["step"].tolist()) if steps is None else list(steps)
    names = {step: f"step {step:,}" for step in chosen}
    model = tables.curves(rows[rows["step"].isin(chosen)], mark, ["step"])
    model = model.assign(series=model["step"].map(names))
    ideal = tables.curves(own, mark, ["learner"]).assign(series=lambda here: here["learner"].map(theme.readable))
    learners = {theme.readable(name): style for name, style in theme.learner_styles(own["learner"]).items()}
    points = pd.concat([model, ideal])[["series", mark, "mean", "low", "high"]]

    scale = ValueScale.around(points["mean"].tolist(), points["mean"].tolist())
    level = alt.X(f"{mark}:Q", title=title, axis=alt.Axis(tickMinStep=1, format="d", grid=False))
    place = (level, scale.axis("mean", f"loss ({tables.unit_of(own if rows.empty else rows)})"))
    styles = theme.shades(list(names.values())) | learners
    stroke, dash = theme.line_encodings(styles, "model at a step, or learner")
    tip = [
        alt.Tooltip("series:N", title="curve"),
        alt.Tooltip(f"{mark}:Q"),
        alt.Tooltip("mean:Q", title="loss", format=".4g"),
        alt.Tooltip("interval:N", title="95 % interval"),
    ]
    # Bands of eight curves would hide each other; the intervals are in the notes under the pointer.
    curves = alt.Chart(theme.coloured(hovered(points), styles))
    lines = curves.mark_line().encode(*place, stroke, dash)
    return theme.dress(alt.layer(lines, curves.mark_circle(size=34, opacity=1).encode(*place, theme.FILL, tooltip=tip)))
