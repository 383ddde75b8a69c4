"""Carry out a claim: run what it needs (or take up what is there), measure, compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from inlearn.claims.claim import Check, Claim, Quantity, Read
from inlearn.claims.quantities import QUANTITIES
from inlearn.core.errors import UserError, unknown
from inlearn.lab import discovery
from inlearn.lab.build import build_study
from inlearn.lab.config import compose
from inlearn.lab.opened import Run
from inlearn.lab.session import start
from inlearn.runs.metrics import evaluation_table


def check(claim: Claim, root: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The result as a plain document: every check with ours, theirs, the band, the verdict and the runs' ids."""
    made: dict[str, list[Run]] = {}
    for runs in claim.runs:
        for seed in runs.seeds:
            say(f"{claim.id}: {runs.label}, seed {seed}")
            made.setdefault(runs.label, []).append(start(claim.study, [*runs.overrides, f"seed={seed}"], root, say))
    checks = [_one(claim, one, made) for one in claim.checks]
    return {
        "id": claim.id,
        "title": claim.title,
        "source": claim.source,
        "tier": claim.tier,
        "command": f"inlearn reproduce {claim.id}",
        "passed": all(one["passed"] for one in checks),
        "checks": checks,
        "runs": {label: [_provenance(run) for run in group] for label, group in made.items()},
        "chart": _points(claim, made),
    }


def _provenance(run: Run) -> dict[str, Any]:
    config = run.folder.config["config"]
    last = run.folder.segments[-1]
    return {"run": run.id, "seeds": config["seeds"], "numerics": config["numerics"], "step": run.folder.status.step,
            "device": last["device_name"], "torch": last["torch"], "commit": last["commit"]}  # fmt: skip


def _one(claim: Claim, one: Check, made: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    low, high = one.band
    low, high = float("-inf") if low is None else low, float("inf") if high is None else high
    if one.quantity is not None:
        each, runs = [quantity(claim, one.quantity)], []
        plain = each
    else:
        runs = [run.id for run in made[one.run]]
        plain = [read(run, one.read) for run in made[one.run]]
        taken = [read(run, one.minus) if one.minus else 0.0 for run in made[one.run]]
        each = [value - other + one.plus for value, other in zip(plain, taken, strict=True)]
    mean = sum(each) / len(each)
    judged = [mean] if one.over == "mean" else each
    return {
        "what": one.what,
        "ours": mean,
        "each": each,
        "as_read": plain,
        "published": one.published,
        "band": [None if abs(x) == float("inf") else x for x in (low, high)],
        "over": one.over,
        "passed": all(low <= value <= high for value in judged),
        "runs": runs,
    }


def quantity(claim: Claim, asked: Quantity) -> float:
    """A general quantity gets the study's name; the study's own get the arguments alone."""
    if asked.name in QUANTITIES:
        from_study = {"study": claim.study} if asked.name != "schedule_steps" else {}
        return float(QUANTITIES[asked.name](**from_study, **asked.arguments))
    own = build_study(compose(discovery.study(claim.study), [])).quantities()
    if asked.name not in own:
        raise unknown("quantity", asked.name, {*own, *QUANTITIES})
    return float(own[asked.name](**asked.arguments))


def read(run: Run, asked: Read) -> float:
    """One number of a run's table; a step that was not evaluated is an error and never the nearest one.

    A set that runs do not evaluate while they train is evaluated here, at a checkpoint of that very step.
    """
    table = run.evaluations
    if asked.set not in run.folder.study["monitored"]:
        run.checkpoint(run.folder.status.step if asked.step == "last" else asked.step).evaluate([asked.set])
        table = evaluation_table(run.folder, kept=True)
    rows = _selected(table, asked)
    if asked.learner == "model":
        rows = rows[rows["step"] == (run.folder.status.step if asked.step == "last" else asked.step)]
    if len(rows) != 1:
        raise UserError(f"run {run.id} has {len(rows)} numbers for {asked}; expected one")
    return float(rows["mean"].iloc[0])


def _selected(table: pd.DataFrame, asked: Read) -> pd.DataFrame:
    """The rows of what is asked for, at every step."""
    by = ",".join(asked.at)
    rows = table[(table["set"] == asked.set) & (table["learner"] == asked.learner) & (table["measure"] == asked.measure)
                 & (table["by"] == by)]  # fmt: skip
    rows = rows[rows["reference"].isna()] if asked.reference is None else rows[rows["reference"] == asked.reference]
    # As an array: pandas would take the list of an empty table for a list of columns.
    return rows[np.array([level == tuple(asked.at.values()) for level in rows["level"]], dtype=bool)]


def _points(claim: Claim, made: Mapping[str, Sequence[Run]]) -> dict[str, Any] | None:
    """The chart's numbers. Over groups: for every series and group, x and one value a seed; over steps: for every
    series and run, its steps, or no x where the number has none."""
    chart = claim.chart
    if chart is None:
        return None
    points = []
    for series in chart.series:
        if chart.over == "groups":
            points += [{"series": series.name, "x": runs.x, "run": run.id, "y": read(run, series.read)}
                       for runs in claim.runs if runs.x is not None for run in made[runs.label]]  # fmt: skip
            continue
        for run in made[series.run]:
            rows = _selected(run.evaluations, series.read)
            if rows.empty:
                raise UserError(f"run {run.id} has no numbers for {series.read}")
            steps = [None if step is pd.NA else int(step) for step in rows["step"]]
            points += [{"series": series.name, "x": step, "run": run.id, "y": float(mean)}
                       for step, mean in zip(steps, rows["mean"], strict=True)]  # fmt: skip
    return {**chart.model_dump(include={"x", "y", "over", "log_x", "log_y"}), "points": points}
