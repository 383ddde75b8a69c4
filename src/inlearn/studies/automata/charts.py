"""What a report on an automata run shows beside the pictures that every study has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import altair as alt
import pandas as pd

from inlearn.charts import groups, tables, theme, training
from inlearn.charts.axes import ValueScale

SHARE = ValueScale(0.0, 1.05, False)  # on every chart the same, so that runs can be compared
Figure = tuple[str, str, alt.LayerChart]

# Those who look pairs up are blue, whoever knows less is warmer, and who knows nothing of the row is grey.
LOOKS = {
    "look_up": theme.Style(theme.COLOURS[0], (10, 4)),
    "look_up_demos": theme.Style(theme.COLOURS[4], (5, 3)),
    "query_only": theme.Style(theme.COLOURS[2], (12, 3, 3, 3)),
    "naive_bayes": theme.Style(theme.COLOURS[3], (7, 2)),
    "given_action": theme.Style(theme.COLOURS[1], (3, 3)),
    "given_state": theme.Style(theme.COLOURS[5], (12, 3, 3, 3, 3, 3)),
    "unigram": theme.Style(theme.GREY, (5, 3)),
    "uniform": theme.Style(theme.PALE, (2, 2)),
}
SEEN = {(2,): "shown by a demonstration", (1,): "only earlier in the query", (0,): "never shown"}
ABSORBED = {(0,): "an action leads out of the state", (1,): "none does"}
PLACES = 20  # positions of the query that are drawn


def charts(evaluations: pd.DataFrame) -> list[Figure]:
    """(title, caption, chart) in reading order; what the table has no numbers for is left out.

    `evaluations` is the long table of one run or of several that differ in their seeds.
    """
    return list(_figures(evaluations))


def _figures(table: pd.DataFrame) -> Iterator[Figure]:
    asked = tables.evaluated(table, "accuracy", "validation")
    set_ = "train" if asked.empty else "validation"
    if not tables.evaluated(table, "accuracy", set_).empty:
        yield _over_training(table, set_)
        yield _by_level_over_training(table, set_, "seen", SEEN)
        if tables.evaluated(table, "accuracy", set_, ("absorbed",))["absorbed"].nunique() > 1:
            yield _by_level_over_training(table, set_, "absorbed", ABSORBED)
        yield _against(table, set_, "position", "next states of the query, from the first on")
        yield _against(table, set_, "occurrences", "how often the row has shown the pair, at least")
    if not tables.evaluated(table, "accuracy", "free").empty:
        yield _running_freely(table)
    if (longer := _longer(table)) is not None:
        yield longer


# ---------------------------------------------------------------- over training


def _over_training(table: pd.DataFrame, set_: str) -> Figure:
    points = tables.curves(tables.evaluated(table, "accuracy", set_), "step").assign(series="model")
    floors, styles = _floors(table, set_)
    chart = training.lines_over_training(
        points, {"model": theme.LEARNERS["model"]} | styles, "accuracy (fraction)", floors, scale=SHARE
    )
    caption = (
        "The share of next states of the query that are answered, on machines never trained on, between the ideal "
        "learners: 'look up' remembers every pair of state and action that the row has shown and is the ceiling, "
        "'look up demos' those of the demonstrations alone, 'query only' those of the query alone; the others know "
        f"how often states follow an action, a state, or both as if they were independent. {plateau(table, set_)}"
    )
    return "Accuracy over training", caption, chart


def plateau(table: pd.DataFrame, set_: str) -> str:
    """In words, where the model is at its last evaluation: its accuracy, and the ideal learner nearest in accuracy and
    that nearest in what it predicts."""
    model = tables.evaluated(table, "accuracy", set_)
    last = int(model["step"].max())
    own = float(model[model["step"] == last]["mean"].mean())
    lines = tables.floors(tables.evaluated(table, "accuracy", set_, learner=None)).set_index("learner")["value"]
    lines = lines[[name for name in lines.index if name in LOOKS]]
    if lines.empty:
        return ""
    near = (lines - own).abs().idxmin()
    found = f"At step {last:,} the model answers {own:.3f}, nearest to '{theme.readable(near)}' ({lines[near]:.3f})"
    away = tables.evaluated(table, "distance", set_)
    away = away[(away["step"] == last) & away["reference"].isin(LOOKS)].dropna(subset=["mean"])
    away = away.astype({"mean": float}).groupby("reference")["mean"].mean()
    if not away.empty:
        said = f"{training.brief(away.min())} nats"
        found += f"; its predictions are nearest to those of '{theme.readable(away.idxmin())}' ({said})"
    return f"{found}."


def _by_level_over_training(table: pd.DataFrame, set_: str, mark: str, names: Mapping[tuple[int, ...], str]) -> Figure:
    rows = training.named_levels(tables.evaluated(table, "accuracy", set_, (mark,)), (mark,), names)
    own = training.named_levels(tables.evaluated(table, "accuracy", set_, (mark,), "look_up"), (mark,), names)
    present = [name for name in names.values() if name in set(rows["series"])]
    own = own[own["series"].isin(present)].assign(name="look up")
    chart = training.lines_over_training(
        tables.curves(rows, "step", ["series"]),
        theme.series_styles(present),
        "accuracy (fraction)",
        tables.floors(own, ["series", "name"]),
        scale=SHARE,
    )
    if mark == "seen":
        caption = (
            "Where the row has shown the pair of state and action before, the answer is certain; where it never has, "
            "nothing better than the likeliest state is known, and few questions are of that kind."
        )
        return "Accuracy by where the pair was shown", caption, chart
    caption = (
        "In a state that no action leaves every answer is the state itself, so only the other questions tell whether "
        "a machine was learned."
    )
    return "Accuracy in and out of states that absorb", caption, chart


def _floors(table: pd.DataFrame, set_: str) -> tuple[pd.DataFrame, dict[str, theme.Style]]:
    own = tables.evaluated(table, "accuracy", set_, learner=None)
    own = own[own["learner"].isin(LOOKS)]
    named = own.assign(series=own["learner"].map(theme.readable)).assign(name=lambda here: here["series"])
    return tables.floors(named, ["series", "name"]), _styles(own["learner"])


def _styles(names: Sequence[str]) -> dict[str, theme.Style]:
    present = set(names)
    return {theme.readable(name): style for name, style in LOOKS.items() if name in present}


# ---------------------------------------------------------------- against marks and lengths


def _against(table: pd.DataFrame, set_: str, mark: str, axis: str) -> Figure:
    """The model at a few steps and the ideal learners, over the levels of a mark."""
    captions = {
        "position": (
            "Accuracy along the query",
            "The share of answered next states at a few places of the query, at a few steps of training. The query "
            "itself shows transitions, so 'query only' starts from nothing and rises.",
        ),
        "occurrences": (
            "Accuracy by how often the pair was shown",
            "The same by how often state and action stood together before, from once on, in steps of powers of two. To "
            "look up, once is enough; who needs more has learnt an average.",
        ),
    }
    rows = tables.evaluated(table, "accuracy", set_, (mark,))
    own = tables.evaluated(table, "accuracy", set_, (mark,), learner=None)
    own = own[own["learner"].isin(LOOKS)]
    # Level 0 are questions of demonstrations, or pairs never shown; of hundreds of places a few are enough.
    places = tables.chosen_steps(sorted(set(rows[mark]) - {0}), PLACES)
    rows, own = (each[each[mark].isin(places)] for each in (rows, own))
    names = {step: f"step {step:,}" for step in tables.chosen_steps(rows["step"].tolist(), 4)}
    points = _points(rows[rows["step"].isin(list(names))].assign(series=lambda here: here["step"].map(names)), mark)
    ideal = _points(own.assign(series=own["learner"].map(theme.readable)), mark)
    styles = theme.shades(list(names.values())) | _styles(own["learner"])
    chart = groups.values_against(
        pd.concat([points, ideal]), styles, axis, "accuracy (fraction)", "model at a step, or learner", SHARE
    )
    return *captions[mark], chart


def _points(rows: pd.DataFrame, along: str) -> pd.DataFrame:
    found = tables.curves(rows, along, ["series"])
    return found.rename(columns={along: "at"})[["series", "at", "mean", "low", "high"]]


def _running_freely(table: pd.DataFrame) -> Figure:
    """The last evaluation's model and the look-up learners along the query, fed with their own answers."""
    every = tables.evaluated(table, "accuracy", "free", ("position",))
    rows = every[every["step"] == every["step"].max()].assign(series="model")
    own = tables.evaluated(table, "accuracy", "free", ("position",), learner=None)
    own = own[own["learner"].isin(LOOKS)]
    places = tables.chosen_steps(rows["position"].tolist(), PLACES)
    own = own.assign(series=own["learner"].map(theme.readable))
    points = pd.concat([_points(each[each["position"].isin(places)], "position") for each in (rows, own)])
    styles = {"model": theme.LEARNERS["model"]} | _styles(own["learner"])
    axis = "next states of the query, from the first on"
    return (
        "Running freely",
        "Each learner reads its own answers in place of the query's states, so one wrong answer spoils what follows. "
        "Nothing is revealed on the way, so both look-up learners know the demonstrations alone.",
        groups.values_against(points, styles, axis, "accuracy (fraction)", scale=SHARE),
    )


def _longer(table: pd.DataFrame) -> Figure | None:
    """Sets "query_L": the model at its last step and the ideal learners over L."""
    lengths = {name: int(name.removeprefix("query_")) for name in table["set"].unique() if name.startswith("query_")}

    def over_lengths(learner: str | None) -> pd.DataFrame:
        found = [
            tables.evaluated(table, "accuracy", name, (), learner).assign(length=lengths[name]) for name in lengths
        ]
        return pd.concat(found)

    if not lengths or (rows := over_lengths("model")).empty:
        return None
    rows = rows[rows["step"] == rows["step"].max()].assign(series="model")
    ideal = over_lengths(None)
    ideal = ideal[ideal["learner"].isin(LOOKS)]
    ideal = ideal.assign(series=ideal["learner"].map(theme.readable))
    chart = groups.values_against(
        pd.concat([_points(rows, "length"), _points(ideal, "length")]),
        {"model": theme.LEARNERS["model"]} | _styles(ideal["learner"]),
        "actions of the query",
        "accuracy (fraction)",
        scale=SHARE,
    )
    caption = (
        "Queries of other lengths than those trained on, through machines never trained on. Ideal learners rise with "
        "the length, because the query shows more and more of the machine."
    )
    return "Accuracy against the length of the query", caption, chart
