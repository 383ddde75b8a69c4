"""Paired differences: runs that are alike in every axis but one, seed and all, compared pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from inlearn.core.errors import UserError, unknown
from inlearn.statistics.intervals import paired_difference
from inlearn.sweeps.groups import group_numbers, spot, with_axes
from inlearn.sweeps.many import Runs
from inlearn.sweeps.readings import Readings

COLUMNS = ["difference", "std", "low", "high", "p", "n", "not_finite", "unit"]


def differences(
    readings: Readings, runs: Runs, over: Sequence[str], marks: Sequence[str], pair: str | None
) -> tuple[pd.DataFrame, list[str]]:
    """The long table of differences that `pair` asks for (empty for None), and remarks on runs without a partner.

    `pair` is KEY=A,B (B - A) or KEY (each other level less the first). `UserError` for unknown keys and levels.
    """
    what = ["set", "measure", "reference", *marks]
    if pair is None:
        return pd.DataFrame(columns=["first", "second", *what, *COLUMNS]), []
    key, first, others = _levels(runs, pair)
    axes = [name for name in runs.axes if name not in {*over, key}]
    partners = [name for name in runs.axes if name != key]
    place = {run.id: spot(run.axes, partners) for run in runs.runs}
    level = {run.id: run.axes.get(key) for run in runs.runs if run.id in set(readings.ids)}
    numbers = group_numbers(runs, axes)
    models = readings.values[readings.values["learner"] == "model"]
    models = models.assign(place=models["run"].map(place), group=models["run"].map(numbers))
    tables, notes = [], []
    for other in others:
        sides = [{id for id, value in level.items() if _same(value, side)} for side in (first, other)]
        alone = {place[id] for id in sides[0]} ^ {place[id] for id in sides[1]}
        if alone:
            notes.append(f"{key} {other} - {first}: {len(alone):,} runs have no partner and are left out")
        here, there = (models[models["run"].isin(side)] for side in sides)
        pairs = here.merge(there[["place", *what, "mean"]], on=["place", *what], suffixes=("", "_other"))
        rows = [_row(values) for _, values in pairs.groupby(["group", *what], sort=False)]
        if rows:
            named = pairs.drop_duplicates(["group", *what])[["group", *what, "unit"]].reset_index(drop=True)
            tables.append(
                pd.concat([named, pd.DataFrame(rows)], axis=1).assign(
                    first=[first] * len(rows), second=[other] * len(rows)
                )
            )
    if not tables:
        raise UserError(f"--pair {pair}: no two finished runs are alike in everything else")
    found = pd.concat(tables, ignore_index=True)
    return with_axes(found, runs, axes)[[*axes, "first", "second", *what, *COLUMNS]], notes


def _row(values: pd.DataFrame) -> dict[str, Any]:
    finite = np.isfinite(values["mean"]) & np.isfinite(values["mean_other"])
    found = paired_difference(values["mean"][finite], values["mean_other"][finite])
    return vars(found) | {"not_finite": int((~finite).sum())}


def _levels(runs: Runs, pair: str) -> tuple[str, Any, list[Any]]:
    """The key, the level to compare with, and the levels to compare, as the plan has them."""
    key, equals, text = pair.partition("=")
    if key not in runs.axes:
        raise unknown("axis", key, runs.axes)
    known = list({_text(run.axes[key]): run.axes[key] for run in runs.runs if key in run.axes}.values())
    if not equals:
        return key, known[0], known[1:]
    named = text.split(",")
    if len(named) != 2 or named[0] == named[1]:
        raise UserError(f"--pair {pair}: expected {key}=A,B with two different levels of: {_listed(known)}")
    for name in named:
        if name not in map(_text, known):
            raise UserError(f"--pair {pair}: {key} has no level {name}; it has {_listed(known)}")
    first, second = (next(value for value in known if _text(value) == name) for name in named)
    return key, first, [second]


def _text(value: Any) -> str:
    """A level as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _same(value: Any, level: Any) -> bool:
    return _text(value) == _text(level)


def _listed(levels: Sequence[Any]) -> str:
    return ", ".join(map(_text, levels))
