"""What a report on a RegBench run shows beside the pictures that every study has."""

from __future__ import annotations

import altair as alt
import pandas as pd

from inlearn.charts import groups, tables, theme
from inlearn.charts.axes import ValueScale

SHARE = ValueScale(0.0, 1.05, False)
Figure = tuple[str, str, alt.LayerChart]

AXES = {
    "word": (
        "by word",
        "word of the row",
        "Each word starts the same machine anew: the more words a row has shown, the more is known of it.",
    ),
    "letter": (
        "within words",
        "place in the word, at least",
        "By the place in a word. The first letter leaves the start node, which every word before has shown too; later "
        "ones leave nodes that only the letters before tell.",
    ),
}
MEASURES = {"accuracy": "Letters that may follow", "total_variation": "Distance from the true distribution"}
SET = "validation"


def charts(evaluations: pd.DataFrame) -> list[Figure]:
    """(title, caption, chart) in reading order; what the table has no numbers for is left out."""
    found: list[Figure] = []
    for measure, title in MEASURES.items():
        for mark, (where, axis, caption) in AXES.items():
            if not tables.evaluated(evaluations, measure, SET, (mark,)).empty:
                found.append((f"{title}, {where}", caption, _against(evaluations, measure, mark, axis)))
    return found


def _against(evaluations: pd.DataFrame, measure: str, mark: str, axis: str) -> alt.LayerChart:
    """The model at a few steps and the ideal learners."""
    rows = tables.evaluated(evaluations, measure, SET, (mark,))
    names = {step: f"step {step:,}" for step in tables.chosen_steps(rows["step"].tolist())}
    model = tables.curves(rows[rows["step"].isin(list(names))], mark, ["step"])
    own = tables.evaluated(evaluations, measure, SET, (mark,), learner=None)
    ideal = tables.curves(own, mark, ["learner"]).assign(series=lambda here: here["learner"].map(theme.readable))
    points = pd.concat([model.assign(series=model["step"].map(names)), ideal]).rename(columns={mark: "at"})
    styles = theme.shades(list(names.values()))
    styles |= {theme.readable(name): style for name, style in theme.learner_styles(own["learner"]).items()}
    title = f"{theme.readable(measure)} ({tables.unit_of(rows)})"
    columns = ["series", "at", "mean", "low", "high"]
    return groups.values_against(points[columns], styles, axis, title, "model at a step, or learner", SHARE)
