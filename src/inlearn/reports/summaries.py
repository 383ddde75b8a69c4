"""The summary of many runs, as tables to read and as a page with charts. It is handed tables; what they hold
(`inlearn.sweeps.summarise.Summary` says) was computed elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import pandas as pd

from inlearn.charts import groups as drawing
from inlearn.charts import means, theme
from inlearn.charts.training import NO_FLOORS, lines_over_training
from inlearn.reports.page import Section, write_page
from inlearn.reports.texts import interval, plain, to_precision

CURVES = 24  # curves of one chart; more groups are drawn in several charts
CHARTS = 30  # charts of one page
LINES = 60  # groups without an order in one chart; of more the tables are read
ALIKE = 0.02  # an ideal learner has one line where its values in all groups are within this part of each other


@dataclass(frozen=True)
class Read:
    """A table to read: a title, column names, and rows of text."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=self.columns)


def group_tables(groups: pd.DataFrame, axes: Sequence[str], marks: Sequence[str], at: str) -> list[Read]:
    """One table a set and measure: the model's mean, std, interval and n in each group, then the ideal learners'."""
    found = []
    for (name, measure, unit), here in groups.groupby(["set", "measure", "unit"], sort=False):
        model = here[here["learner"] == "model"]
        ideal = {learner: rows for learner, rows in here.groupby("learner", sort=False) if learner != "model"}
        distances = bool((model["reference"] != "").any())
        keys = [*axes, *(["reference"] if distances else []), *marks]
        odd = bool(model["not_finite"].any())
        columns = [*axes, *(["to"] if distances else []), *marks, "mean", "std", "95 % interval", "n"]
        columns += ["not finite"] if odd else []
        columns += [] if distances else [theme.readable(learner) for learner in ideal]
        rows = []
        for row in model.to_dict("records"):
            half = (row["high"] - row["low"]) / 2
            cells = _cells(row, keys)
            cells += [to_precision(row["mean"], half), to_precision(row["std"], row["std"])]
            cells += [interval(row["low"], row["high"]), plain(row["n"])] + ([plain(row["not_finite"])] if odd else [])
            if not distances:
                cells += [_same_place(rows_, row, keys) for rows_ in ideal.values()]
            rows.append(cells)
        title = f"{theme.readable(measure).capitalize()} on {name} ({unit}), {at}"
        found.append(Read(title, columns, rows))
    return found


def _cells(row: dict, keys: Sequence[str]) -> list[str]:
    return [theme.readable(row[key]) if key == "reference" else plain(row[key]) for key in keys]


def _same_place(ideal: pd.DataFrame, row: dict, keys: Sequence[str]) -> str:
    """An ideal learner's mean in the group and level of `row`. It is exact on the rows it has, so four digits."""
    same = [other for other in ideal.to_dict("records") if all(other[key] == row[key] for key in keys)]
    return to_precision(same[0]["mean"], math.nan) if same else "–"


def difference_tables(differences: pd.DataFrame, key: str, axes: Sequence[str], marks: Sequence[str]) -> list[Read]:
    """One table a set, measure and pair of levels: difference, its interval, p and the number of pairs."""
    found = []
    frame = differences.assign(pair=[f"{plain(b)} - {plain(a)}" for a, b in _levels(differences)])
    for (name, measure, unit, pair), here in frame.groupby(["set", "measure", "unit", "pair"], sort=False):
        keys = [*axes, *(["reference"] if (here["reference"] != "").any() else []), *marks]
        odd = bool(here["not_finite"].any())
        columns = [*("to" if key_ == "reference" else key_ for key_ in keys)]
        columns += ["difference", "95 % interval", "p", "pairs", *(["not finite"] if odd else [])]
        rows = [
            _cells(row, keys)
            + [to_precision(row["difference"], (row["high"] - row["low"]) / 2), interval(row["low"], row["high"])]
            + [probability(row["p"]), plain(row["n"])]
            + ([plain(row["not_finite"])] if odd else [])
            for row in here.to_dict("records")
        ]
        title = f"{theme.readable(measure).capitalize()} on {name} ({unit}), paired: {key} {pair}"
        found.append(Read(title, columns, rows))
    return found


def _levels(differences: pd.DataFrame) -> Iterator[tuple[object, object]]:
    return zip(differences["first"], differences["second"], strict=True)


def probability(p: float) -> str:
    if math.isnan(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


# ---------------------------------------------------------------- the page


def write_summary_page(
    path: Path,
    name: str,
    words: str,
    axes: Sequence[str],
    groups: pd.DataFrame,
    curves: pd.DataFrame,
    tables: Sequence[Read],
) -> Path:
    """The page at `path`, its charts as SVG in `figures/` beside it. `words` is its first paragraph(s)."""
    sections = [*_against(groups, axes), *_over_training(groups, curves, axes)]
    if len(sections) > CHARTS:
        words += f"\n\n{len(sections) - CHARTS} further charts are not drawn: name fewer measures or sets."
    frames = [(table.title, table.frame) for table in tables]
    write_page(path, path.parent / "figures", f"Summary of {name}", words, sections[:CHARTS], (), frames)
    return path


def _label(row: dict, axes: Sequence[str]) -> str:
    """A group as a legend names it: the level alone where there is one axis."""
    if len(axes) == 1:
        return plain(row[axes[0]])
    return ", ".join(f"{_short(axis)} {plain(row[axis])}" for axis in axes) or "all runs"


def _labels(table: pd.DataFrame, axes: Sequence[str]) -> pd.Series:
    levels = table[list(axes)].to_dict("records") if axes else [{}] * len(table)
    return pd.Series([_label(row, axes) for row in levels], index=table.index, dtype=object)


def _short(axis: str) -> str:
    return theme.readable(axis.rpartition(".")[2])


def _numeric(groups: pd.DataFrame, axes: Sequence[str]) -> str | None:
    """The axis with the most levels, at least three of them, all numbers and at least two finite."""
    best, most = None, 2
    for axis in axes:
        numbers = {drawing.level_number(level) for level in groups[axis]}
        finite = [number for number in numbers if number is not None and math.isfinite(number)]
        if None not in numbers and len(finite) >= 2 and len(numbers) > most:
            best, most = axis, len(numbers)
    return best


def _against(groups: pd.DataFrame, axes: Sequence[str]) -> Iterator[Section]:
    """Values against the numeric axis: losses with the ideal learners, distances with a curve a learner.

    Without such an axis, the groups one below the other.
    """
    axis = _numeric(groups, axes)
    if axis is None:
        yield from _group_by_group(groups, axes)
        return
    overall = groups[groups["mean"].notna()]
    others = [other for other in axes if other != axis]
    for (name, measure, unit), here in overall.groupby(["set", "measure", "unit"], sort=False):
        model = here[here["learner"] == "model"]
        title, what = theme.readable(measure), f"{theme.readable(measure)} ({unit})"
        if (model["reference"] != "").any():
            for label, part in _parts(model, others):
                styles = {theme.readable(n): s for n, s in theme.learner_styles(part["reference"]).items()}
                series = part["reference"].map(theme.readable)
                chart = drawing.values_against(_points(part, axis, series), styles, axis, what, f"{measure} to")
                yield Section(f"{title.capitalize()} on {name} against {axis}{label}", BARS, chart)
        elif not others:
            learners = {theme.readable(n): s for n, s in theme.learner_styles(here["learner"]).items()}
            points = _points(here, axis, here["learner"].map(theme.readable))
            chart = drawing.values_against(points, learners, axis, what)
            yield Section(f"{title.capitalize()} on {name} against {axis}", f"{BARS} {IDEAL}", chart)
        else:
            series = _labels(model, others)
            styles = _styles(list(dict.fromkeys(series)), model, others)
            chart = drawing.values_against(
                _points(model, axis, series), styles, axis, what, ", ".join(map(_short, others))
            )
            yield Section(f"{title.capitalize()} on {name} against {axis}", BARS, chart)


def _group_by_group(groups: pd.DataFrame, axes: Sequence[str]) -> Iterator[Section]:
    """Where the groups have no order: a line each, at most `LINES` of them. Distances are left to the tables."""
    overall = groups[groups["mean"].notna() & (groups["reference"] == "")]
    for (name, measure, unit), here in overall.groupby(["set", "measure", "unit"], sort=False):
        here = here.assign(series=_labels(here, axes))
        model, ideal = here[here["learner"] == "model"], here[here["learner"] != "model"]
        if 1 < len(model) <= LINES:
            ticks = ideal.rename(columns={"learner": "name", "mean": "value"})[["series", "name", "value"]]
            what = f"{theme.readable(measure)} ({unit})"
            chart = means.means_of_groups(model[["series", "mean", "low", "high"]], ticks, what)
            yield Section(f"{theme.readable(measure).capitalize()} on {name}", f"{BARS} {IDEAL}", chart)


CUT = "What reaches the frame goes on beyond it: the tables have the numbers."
BARS = f"Means over the runs of each group; bars are 95 % intervals of the mean between runs. {CUT}"
IDEAL = "Beside the model, the ideal learners on the same rows."
BANDS = f"Means over the runs of each group; bands are 95 % intervals of the mean between runs. {CUT}"


def _parts(table: pd.DataFrame, axes: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """`table` for each combination of `axes`, with what to add to a title."""
    if not axes:
        yield "", table
        return
    labels = _labels(table, axes)
    prefix = f"{_short(axes[0])} " if len(axes) == 1 else ""
    for label in dict.fromkeys(labels):
        yield f", {prefix}{label}", table[labels == label]


def _points(table: pd.DataFrame, axis: str, series: pd.Series) -> pd.DataFrame:
    at = table[axis].map(drawing.level_number).astype(float)
    return table[["mean", "low", "high"]].assign(series=series, at=at).sort_values("at", kind="stable")


def _styles(labels: Sequence[str], table: pd.DataFrame, axes: Sequence[str]) -> dict[str, theme.Style]:
    """Ordered colours where the only axis has numbers for levels, else colours that are far apart; without an axis
    the model's own looks.
    """
    if not axes:
        return {label: theme.LEARNERS["model"] for label in labels}
    numbers = {plain(level): drawing.level_number(level) for level in table[axes[0]]} if len(axes) == 1 else {"": None}
    if None not in numbers.values() and len(labels) > 2:
        return drawing.ordered_styles(sorted(labels, key=lambda label: numbers[label]))
    return theme.series_styles(labels)


def _over_training(groups: pd.DataFrame, curves: pd.DataFrame, axes: Sequence[str]) -> Iterator[Section]:
    """Curves with bands, one a group."""
    colour = _numeric(curves, axes) if len(curves) else None
    for (name, measure, reference, unit), here in curves.groupby(["set", "measure", "reference", "unit"], sort=False):
        if here["step"].nunique() < 2:
            continue
        to = f" to {theme.readable(reference)}" if reference else ""
        title, what = f"{theme.readable(measure).capitalize()}{to} on {name}", f"{theme.readable(measure)}{to} ({unit})"
        count = len(here.drop_duplicates(list(axes))) if axes else 1
        split = [axis for axis in axes if axis != (colour or axes[0])] if count > CURVES else []
        within = [axis for axis in axes if axis not in split]
        everywhere = _styles(list(dict.fromkeys(_labels(curves, within))), curves, within)
        for label, part in _parts(here, split):
            floors, ideal = NO_FLOORS, {}
            if not reference:
                floors, ideal = _floors(groups, name, measure, part, axes)
            chart = _curves(part, within, what, everywhere, floors, ideal)
            yield Section(f"{title} over training{label}", BANDS, chart)


def _curves(
    part: pd.DataFrame,
    axes: Sequence[str],
    what: str,
    everywhere: dict[str, theme.Style],
    floors: pd.DataFrame,
    ideal: dict[str, theme.Style],
) -> alt.LayerChart:
    """One chart; a group looks the same in all (`everywhere`), whichever groups a chart lacks."""
    series = _labels(part, axes)
    present = set(series)
    styles = {name: style for name, style in everywhere.items() if name in present}
    greys = {name: theme.Style(theme.GREY, style.dash) for name, style in ideal.items()} if axes else ideal
    points = part.assign(series=series).sort_values(["series", "step"])[["step", "series", "mean", "low", "high"]]
    legend = ", ".join(map(_short, axes)) or None
    return lines_over_training(points.astype({"step": "int64"}), styles | greys, what, floors, legend)


def _floors(
    groups: pd.DataFrame, name: str, measure: str, part: pd.DataFrame, axes: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, theme.Style]]:
    """The ideal learners that have one value for all groups of the chart; of the others no one line is true."""
    own = groups[(groups["set"] == name) & (groups["measure"] == measure) & (groups["learner"] != "model")]
    own = own[own["mean"].notna()]
    if axes:
        own = own[_labels(own, axes).isin(set(_labels(part, axes)))]
    each = own.groupby("learner", sort=False)["mean"].agg(["mean", "min", "max"])
    same = each[(each["max"] - each["min"]) <= ALIKE * each["mean"].abs()]
    names = [theme.readable(learner) for learner in same.index]
    styles = {theme.readable(learner): style for learner, style in theme.learner_styles(same.index).items()}
    return pd.DataFrame({"series": names, "name": names, "value": same["mean"].to_numpy()}), styles
