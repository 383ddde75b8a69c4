"""Many runs opened together: what tells them apart, how they stand, and their tables as one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from inlearn.core.configuration import leaves
from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.runs.folder import RunFolder, list_runs
from inlearn.runs.query import TABLES, query
from inlearn.sweeps.folder import open_plan
from inlearn.sweeps.planned import PlannedRun, resolves_width
from inlearn.sweeps.standing import Standing, standings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from inlearn.sweeps.summarise import Summary

# Column names of our tables; a study's key of such a name is written out in full.
TAKEN = {part.split()[0].strip('"') for columns in TABLES.values() for part in columns.split(", ")} | {
    *("difference", "std", "low", "high", "p", "not_finite", "first", "second")
}

RUNS_OWN = {"seed", "model"}  # no study has such keys, and of the tables only `runs`, which gets no axes
LABELS = {"name", "tags"}  # what a plan may write for each run, and no two runs differ by


class Runs:
    """The runs of a plan, or all below a root.

    `axes` are the keys in which they differ, as columns are named; names and tags tell runs apart but are no such keys.
    `resolved`: further columns, what nobody asked for because it follows from the axes (the width that
    model.match_params became). Groups and pairs are made without them.
    """

    def __init__(self, root: Path, runs: Sequence[PlannedRun], name: str) -> None:
        self.root, self.name = root, name
        self.runs = [PlannedRun(run.id, _columns(run.axes), run.overrides, run.last) for run in runs]
        axes = list(dict.fromkeys(key for run in self.runs for key in run.axes))
        wide = [run for run in self.runs if "model.width" in run.axes]
        self.resolved = ["model.width"] if wide and all(map(resolves_width, wide)) else []
        self.axes = [key for key in axes if key not in self.resolved]

    def __repr__(self) -> str:
        return f"<{len(self.runs):,} runs of {self.name}, which differ in {', '.join(self.axes) or 'nothing'}>"

    def __len__(self) -> int:
        return len(self.runs)

    @cached_property
    def standings(self) -> list[Standing]:
        return standings(self.root, self.runs)

    @property
    def table(self) -> pd.DataFrame:
        """One row a run: run, a column for each axis, those of `resolved`, state, step, reason."""
        columns = [*self.axes, *self.resolved]
        rows = [
            {"run": s.run.id} | {key: s.run.axes.get(key) for key in columns}
            | {"state": s.state, "step": s.step, "reason": s.reason}
            for s in self.standings
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["run", *columns, "state", "step", "reason"])

    @property
    def finished(self) -> list[str]:
        """Ids of the runs that went as far as they were asked to; `UserError` where there are none."""
        ids = [standing.run.id for standing in self.standings if standing.done]
        if not ids:
            raise UserError(f"{self.name} has no finished run to summarise: {self.left_out}")
        return ids

    @property
    def left_out(self) -> str:
        """ "12 of 60 runs are left out: 10 planned, 2 failed"; empty where all are finished."""
        left = Counter(
            "finished before the plan went further" if standing.state == "finished" else standing.state
            for standing in self.standings
            if not standing.done
        )
        told = ", ".join(f"{number:,} {state}" for state, number in left.items())
        return f"{left.total():,} of {len(self):,} runs are left out: {told}" if left else ""

    def training(self) -> pd.DataFrame:
        """Every training line of these runs: run, the axes, step, loss, rate, gradient_norm, phase."""
        return self._with_axes(self.query("SELECT * FROM training"))

    def evaluations(
        self, measure: str | None = None, set: str | None = None, by: str | None = "", learner: str | None = None
    ) -> pd.DataFrame:
        """The long table of evaluations with the axes as columns, of one measure, set or learner where given.

        `by`: "" for overall means, marks joined by "," for slices, None for all of both.
        """
        wanted = {"measure": measure, "set": set, "by": by, "learner": learner}
        chosen = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(f'"{name}" = ?' for name in chosen) or "true"
        return self._with_axes(self.query(f"SELECT * FROM evaluations WHERE {where}", list(chosen.values())))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pd.DataFrame:
        """SQL over these runs alone: the views runs, training and evaluations."""
        there = [s.run.id for s in self.standings if s.state != "planned"]
        return query(self.root, sql, parameters, there)

    def summarise(self, **asked: Any) -> Summary:
        """Mean, deviation, interval and n of every group; `inlearn.sweeps.readings.Asked` says what may be asked."""
        from inlearn.sweeps.readings import Asked
        from inlearn.sweeps.summarise import summarise

        return summarise(self, Asked(**asked))

    def weights(self, which: int | str = "last") -> dict[str, Tensor]:
        """The weights of every run's checkpoint at a step, "best" or "last": (member, *shape) by name.

        Members are in the order of `runs`, hence of `table`. Raises `UserError` where a run has no such checkpoint, or
        weights of another shape.
        """
        from inlearn.sweeps.members import stacked_weights

        return stacked_weights(self.root, [run.id for run in self.runs], which)

    def model(self, which: int | str = "last", device: str = "cpu") -> nn.Module:
        """All checkpoints as one model, in evaluation mode: inputs (member, N, …), outputs (member, …)."""
        from inlearn.sweeps.members import stacked_model

        return stacked_model(self.root, [run.id for run in self.runs], which, device)

    def _with_axes(self, table: pd.DataFrame) -> pd.DataFrame:
        axes = {run.id: run.axes for run in self.runs}
        for place, key in enumerate(self.axes, 1):
            table.insert(place, key, [axes[id].get(key) for id in table["run"]])
        return table


def open_runs(root: Path, plan: str | None = None) -> Runs:
    """The runs of the plan `plan` below `root`; without a plan, every run there, by the keys in which they differ."""
    if plan is not None:
        folder = open_plan(root, plan)
        return Runs(root, folder.runs, folder.name)
    found = [(folder.id, tree) for folder in list_runs(root) if (tree := _asked(folder)) is not None]
    if not found:
        raise UserError(f"there are no runs in {root}")
    keys = dict.fromkeys(key for _, tree in found for key in tree)
    differ = [key for key in keys if len({json.dumps(tree.get(key)) for _, tree in found}) > 1]
    runs = [PlannedRun(id, {key: tree[key] for key in differ if key in tree}, (), 0) for id, tree in found]
    return Runs(root, runs, str(root))


def _columns(axes: Mapping[str, Any]) -> dict[str, Any]:
    """Names that are free, and values that can be compared: a list is told as JSON."""
    asked = {key: value for key, value in axes.items() if key not in LABELS}
    named = {f"study.{key}" if key in TAKEN - RUNS_OWN else key: value for key, value in asked.items()}
    return {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in named.items()}


def _asked(folder: RunFolder) -> dict[str, Any] | None:
    """A run's configuration by dotted key, as a plan's axes are named; None for a damaged folder.

    Streams that follow the seed are left out: the seed says it.
    """
    try:
        config, unhashed = folder.config["config"], folder.config["unhashed"]
    except (EnvironmentFault, KeyError):
        return None
    seed = unhashed["seed"]
    seeds = {f"seeds.{stream}": value for stream, value in config["seeds"].items() if value not in (seed, 0)}
    tree = {key: value for key, value in leaves(config) if not key.startswith("seeds.")}
    return {key.removeprefix("study."): value for key, value in tree.items()} | {"seed": seed} | seeds
