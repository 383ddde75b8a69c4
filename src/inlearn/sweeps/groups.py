"""Which runs belong together: those that differ in replicate axes alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from inlearn.core.errors import unknown
from inlearn.sweeps.many import Runs


def replicates(axes: Sequence[str], over: Sequence[str]) -> list[str]:
    """The axes to average over: `over`, or seed and seeds.*. `UserError` for one in which the runs do not differ."""
    for key in over:
        if key not in axes:
            raise unknown("axis", key, axes)
    return list(over) or [key for key in axes if key == "seed" or key.startswith("seeds.")]


def spot(values: Mapping[str, Any], axes: Sequence[str]) -> str:
    """A place on `axes` as a text: 1 and "1" differ there, lists can be compared."""
    return json.dumps([[key, values[key]] for key in axes if key in values])


def group_numbers(runs: Runs, axes: Sequence[str]) -> dict[str, int]:
    """The number of every run's group, in the order in which the plan first names the groups."""
    known: dict[str, int] = {}
    return {run.id: known.setdefault(spot(run.axes, axes), len(known)) for run in runs.runs}


def with_axes(table: pd.DataFrame, runs: Runs, axes: Sequence[str], resolved: Sequence[str] = ()) -> pd.DataFrame:
    """`table` with the axes' values of its column `group` in front; `resolved` where a group's runs have one value."""
    numbers = group_numbers(runs, axes)
    values = {numbers[run.id]: dict(run.axes) for run in runs.runs}
    for run in runs.runs:
        group = values[numbers[run.id]]
        group |= {key: None for key in resolved if run.axes.get(key) != group.get(key)}
    columns = {key: [values[group].get(key) for group in table["group"]] for key in (*axes, *resolved)}
    return pd.concat([pd.DataFrame(columns, index=table.index, dtype=object), table], axis=1)
