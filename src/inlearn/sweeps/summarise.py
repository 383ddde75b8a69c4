"""Many runs as a few numbers: groups that differ in more than their seed, each with mean, deviation and interval.

A group is what remains of a plan's axes without the replicates (`seed`, `seeds.*`, or what `over` names). What is
left out (unfinished runs, values that are not finite, runs without the step) is said in `Summary.notes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from inlearn.runs.folder import RunFolder
from inlearn.statistics.bootstrap import bootstrap_interval
from inlearn.statistics.intervals import half_width
from inlearn.sweeps.differences import differences
from inlearn.sweeps.groups import group_numbers, replicates, spot, with_axes
from inlearn.sweeps.many import Runs
from inlearn.sweeps.readings import Asked, Readings, read_curves, read_values

LEVEL = 0.95
BOOTSTRAP_RUNS = 10  # below so many, resampling knows too little of the tails


@dataclass(frozen=True)
class Summary:
    """`groups` and `differences` are long tables at full precision; `axes` are the groups' columns in them.

    groups: the axes, what follows from them (`resolved`, see Runs), set, learner, measure, reference, the marks, step
    (missing where runs differ), mean, std, low, high, n, not_finite, unit. differences: the axes but the paired one,
    first, second (its levels), set, measure, reference, the marks, difference (second - first), std, low, high, p, n,
    not_finite, unit.
    """

    name: str
    axes: list[str]
    resolved: list[str]
    over: list[str]
    marks: list[str]
    at: str
    groups: pd.DataFrame
    differences: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def summarise(runs: Runs, asked: Asked, readings: Readings | None = None) -> Summary:
    """The summary of the finished ones among `runs`. `UserError` where nothing is left, or a name is unknown.

    `readings`: values that were read elsewhere than in the runs' own evaluations, in the place of what `asked` names.
    """
    over = replicates(runs.axes, asked.over)
    axes = [key for key in runs.axes if key not in over]
    readings = readings or read_values(runs, asked)
    marks = asked.by.split(",") if asked.by else []
    groups = _grouped(readings.values, runs, axes, marks, asked.interval)
    paired, remarks = differences(readings, runs, over, marks, asked.pair)
    notes = [text for text in (runs.left_out, *readings.notes, *remarks) if text]
    notes += _empty(groups, runs, axes)
    fewest = groups.loc[groups["n"] > 1, "n"].min()
    if asked.interval == "bootstrap" and fewest < BOOTSTRAP_RUNS:
        notes.append(f"bootstrap intervals of {fewest:.0f} runs are too narrow: none leaves the range of the values")
    notes += [
        f"{int(rows['not_finite'].sum()):,} {what} are not finite and left out (column not_finite)"
        for rows, what in ((groups, "values"), (paired, "pairs"))
        if rows["not_finite"].sum()
    ]
    groups, paired = (_labelled(table, runs, readings.ids, marks) for table in (groups, paired))
    return Summary(runs.name, axes, runs.resolved, over, marks, readings.at, groups, paired, notes)


def curves(runs: Runs, asked: Asked) -> pd.DataFrame:
    """Overall means over training: the axes, set, measure, reference, unit, step, mean, low, high, n.

    A group's interval is Student's t between its runs. A step that a run of the group lacks is left out, so that no
    jump of a curve is a change of company.
    """
    axes = [key for key in runs.axes if key not in replicates(runs.axes, asked.over)]
    values = read_curves(runs, asked)
    numbers = group_numbers(runs, axes)
    values = values.assign(group=[numbers[id] for id in values["run"]])
    apart = ["set", "measure", "reference", "unit", "group"]
    found = values.groupby([*apart, "step"], sort=False)["mean"].agg(["mean", "std", "count"]).reset_index()
    found = found[(found["count"] > 0) & (found["count"] == found.groupby(apart)["count"].transform("max"))]
    half = half_width(found["std"], found["count"], LEVEL)
    found = found.assign(low=found["mean"] - half, high=found["mean"] + half).rename(columns={"count": "n"})
    return with_axes(found.reset_index(drop=True), runs, axes).drop(columns=["group", "std"])


# ---------------------------------------------------------------- groups


def _grouped(values: pd.DataFrame, runs: Runs, axes: list[str], marks: list[str], interval: str) -> pd.DataFrame:
    numbers = group_numbers(runs, axes)
    apart = ["group", "set", "learner", "measure", "reference", *marks, "unit"]
    finite = values.assign(group=[numbers[id] for id in values["run"]], finite=np.isfinite(values["mean"]))
    finite["mean"] = finite["mean"].where(finite["finite"])
    each = finite.groupby(apart, sort=False)
    found = each.agg(
        mean=("mean", "mean"),
        std=("mean", "std"),
        n=("mean", "count"),
        all=("finite", "size"),
        first_step=("step", "min"),
        last_step=("step", "max"),
    ).reset_index()
    if interval == "bootstrap":
        ends = each["mean"].agg(lambda some: bootstrap_interval(some.dropna(), level=LEVEL)).tolist()
        low, high = np.array(ends, dtype=float).reshape(-1, 2).T
    else:
        half = half_width(found["std"], found["n"], LEVEL)
        low, high = found["mean"] - half, found["mean"] + half
    step = found["first_step"].where(found["first_step"] == found["last_step"])
    found = found.assign(low=low, high=high, not_finite=found["all"] - found["n"], step=step)
    order = {"group": None, "set": _ranks(values["set"]), "measure": _ranks(values["measure"]), "learner": {"model": 0}}
    keys = [found[key] if ranks is None else found[key].map(ranks).fillna(len(ranks)) for key, ranks in order.items()]
    found = found.iloc[np.lexsort([np.asarray(key, dtype=float) for key in reversed(keys)])].reset_index(drop=True)
    shown = ["set", "learner", "measure", "reference", *marks, "step"]
    shown += ["mean", "std", "low", "high", "n", "not_finite", "unit"]
    return with_axes(found, runs, axes, runs.resolved)[[*axes, *runs.resolved, *shown]]


def _ranks(names: pd.Series) -> dict[str, int]:
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _empty(groups: pd.DataFrame, runs: Runs, axes: Sequence[str]) -> list[str]:
    """Which groups lack a measure on a set that others have."""
    whole = len(set(group_numbers(runs, axes).values()))
    model = groups[groups["learner"] == "model"]
    notes = []
    for (name, measure), here in model.groupby(["set", "measure"], sort=False):
        lacking = whole - (len({spot(row, axes) for row in here.to_dict("records")}) if axes else 1)
        if lacking:
            notes.append(f"{lacking:,} of {whole:,} groups have no {measure} on {name}")
    return notes


def _labelled(table: pd.DataFrame, runs: Runs, ids: Sequence[str], marks: Sequence[str]) -> pd.DataFrame:
    """Levels by what the study calls them, e.g. gain 3 and not its place in the list of gains."""
    labels = RunFolder(runs.root / ids[0]).study.get("labels", {})
    for mark in marks:
        known = [labels.get(name, {}).get(mark) for name in table["set"]]
        named = [names[level] if names else level for names, level in zip(known, table[mark], strict=True)]
        table = table.assign(**{mark: named})
    return table
