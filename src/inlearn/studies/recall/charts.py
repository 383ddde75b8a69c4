"""What a report on a recall run shows beside the pictures that every study has."""

from __future__ import annotations

import altair as alt
import pandas as pd

from inlearn.charts import groups, tables, theme, training
from inlearn.charts.axes import ValueScale

SHARE = ValueScale(0.0, 1.05, False)  # on every chart the same, so that runs can be compared
Figure = tuple[str, str, alt.LayerChart]

AGAINST_PAIRS = {
    "accuracy": (
        "Recall against the number of pairs",
        "The share of questions that are answered, on rows with so many pairs, at a few steps. A model that "
        "looks its keys up stays at 1; one that only knows which values the row has shown falls as one over their "
        "number (learner 'values').",
    ),
    "all_recalled": (
        "Rows recalled whole",
        "The share of rows with no question answered wrongly, at the same steps.",
    ),
}


def charts(evaluations: pd.DataFrame) -> list[Figure]:
    """(title, caption, chart) in reading order; what the table has no numbers for is left out.

    `evaluations` is the long table of one run or of several that differ in their seeds.
    """
    found: list[Figure] = []
    for measure, (title, caption) in AGAINST_PAIRS.items():
        if not tables.evaluated(evaluations, measure, "pairs", ("pairs",)).empty:
            found.append((title, caption, _against_pairs(evaluations, measure)))
    rows = tables.evaluated(evaluations, "accuracy", "pairs", ("pairs",))
    if not rows.empty:
        found.append(_over_training(evaluations, rows))
    if not tables.evaluated(evaluations, "accuracy", "pairs", ("pairs", "gap")).empty:
        found.append(_against_gap(evaluations))
    return found


def _against_pairs(evaluations: pd.DataFrame, measure: str) -> alt.LayerChart:
    """The model at a few steps and the ideal learners, over the number of pairs."""
    rows = tables.evaluated(evaluations, measure, "pairs", ("pairs",))
    names = {step: f"step {step:,}" for step in tables.chosen_steps(rows["step"].tolist())}
    model = tables.curves(rows[rows["step"].isin(list(names))], "pairs", ["step"])
    own = tables.evaluated(evaluations, measure, "pairs", ("pairs",), learner=None)
    ideal = tables.curves(own, "pairs", ["learner"]).assign(series=lambda here: here["learner"].map(theme.readable))
    points = pd.concat([model.assign(series=model["step"].map(names)), ideal]).rename(columns={"pairs": "at"})
    styles = theme.shades(list(names.values()))
    styles |= {theme.readable(name): style for name, style in theme.learner_styles(own["learner"]).items()}
    title = f"{theme.readable(measure)} ({tables.unit_of(rows)})"
    return groups.values_against(
        points[["series", "at", "mean", "low", "high"]],
        styles,
        "pairs in the row",
        title,
        "model at a step, or learner",
        SHARE,
    )


def _over_training(evaluations: pd.DataFrame, rows: pd.DataFrame) -> Figure:
    return (
        "Recall over training",
        "The same share for each number of pairs, over training.",
        training.lines_over_training(
            tables.curves(rows.assign(series=_number(rows)), "step", ["series"]),
            groups.ordered_styles(_numbers(rows)),
            "accuracy (fraction)",
            scale=SHARE,
        ),
    )


def _against_gap(evaluations: pd.DataFrame) -> Figure:
    rows = tables.evaluated(evaluations, "accuracy", "pairs", ("pairs", "gap"))
    last = rows[rows["step"] == rows["step"].max()]
    points = tables.curves(last.assign(series=_number(last)), "gap", ["series"]).rename(columns={"gap": "at"})
    axis = "positions from key to question, at least"
    styles = groups.ordered_styles(_numbers(last))
    chart = groups.values_against(points, styles, axis, "accuracy (fraction)", scale=SHARE)
    return (
        "Recall against the gap",
        "At the last evaluation: how far back a key lies from its question, from each power of two up to the next, for "
        "each number of pairs. Few questions have a large gap, so intervals widen to the right.",
        chart,
    )


def _number(rows: pd.DataFrame) -> pd.Series:
    return rows["pairs"].map(_pairs)


def _numbers(rows: pd.DataFrame) -> list[str]:
    return [_pairs(count) for count in sorted(rows["pairs"].unique())]


def _pairs(count: int) -> str:
    return f"{count} pair" if count == 1 else f"{count} pairs"
