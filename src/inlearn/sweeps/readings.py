"""The numbers of finished runs that a summary is made of: one value a run, set, learner, measure and level."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from inlearn.core.errors import UserError, unknown
from inlearn.runs.folder import RunFolder
from inlearn.runs.query import query
from inlearn.sweeps.groups import group_numbers, replicates
from inlearn.sweeps.many import Runs


@dataclass(frozen=True)
class Asked:
    """What to summarise.

    `measures`; `sets` (none named: those that the study monitors); `by`: marks joined by "," for slices; `step`: a
    number, "common" (the last that all runs share), "last" or "best" (each run's own); `over`: the replicate axes
    (none named: seed and seeds.*); `pair`: KEY or KEY=A,B for paired differences; `interval`: Student's t, or BCa.
    """

    measures: Sequence[str] = ("loss", "distance")
    sets: Sequence[str] = ()
    by: str = ""
    step: int | Literal["common", "last", "best"] = "common"
    over: Sequence[str] = ()
    pair: str | None = None
    interval: Literal["t", "bootstrap"] = "t"


@dataclass(frozen=True)
class Readings:
    """`values`: run, step, set, learner, measure, reference ("" for none), unit, mean, an int column a mark.

    `ids` are the runs in it, `at` says in words at which step, `notes` what could not be read.
    """

    values: pd.DataFrame
    ids: list[str]
    at: str
    notes: list[str]


def read_values(runs: Runs, asked: Asked) -> Readings:
    """One value a run at the step asked for; the ideal learners' own values among them.

    `UserError` for unknown measures, sets, marks and steps; the message names what there is.
    """
    ids = runs.finished
    sets, notes = _sets(runs, ids, asked)
    at, words, remarks = _steps(runs, ids, asked.step)
    rows = runs.query(
        "SELECT run, step, set, learner, measure, reference, unit, level, mean FROM evaluations WHERE list_contains(?, "
        'measure) AND list_contains(?, set) AND "by" = ? AND (step IS NULL OR list_contains(?, step))',
        [list(asked.measures), sets, asked.by, sorted(set(at.values()))],
    )
    own_step = rows["run"].map(at)
    rows = rows[own_step.notna() & (rows["step"].isna() | (rows["step"] == own_step))]
    marks = asked.by.split(",") if asked.by else []
    levels = np.array(rows.pop("level").tolist(), dtype=np.int64).reshape(len(rows), -1)
    rows = rows.assign(**{mark: levels[:, place] for place, mark in enumerate(marks)})
    keys = ["set", "measure", "learner", "reference", *marks, "run"]
    return Readings(_in_order(rows, asked.measures, sets, keys), list(at), words, [*notes, *remarks])


def read_curves(runs: Runs, asked: Asked) -> pd.DataFrame:
    """The model's overall means at every step: run, step, set, measure, reference, unit, mean."""
    ids = runs.finished
    sets, _ = _sets(runs, ids, Asked(asked.measures, asked.sets, over=asked.over))
    rows = runs.query(
        "SELECT run, step, set, measure, reference, unit, mean FROM evaluations "
        "WHERE learner = 'model' AND step IS NOT NULL AND \"by\" = '' "
        "AND list_contains(?, measure) AND list_contains(?, set)",
        [list(asked.measures), sets],
    )
    rows = rows[rows["run"].isin(ids)]
    rows = rows[rows["mean"].notna()]
    return _in_order(rows, asked.measures, sets, ["set", "measure", "reference", "step", "run"])


def _in_order(rows: pd.DataFrame, measures: Sequence[str], sets: Sequence[str], keys: Sequence[str]) -> pd.DataFrame:
    """Sorted by `keys`, sets and measures as they were asked for; a query's own order is none."""
    places = {"set": list(sets), "measure": list(measures)}
    rows = rows.assign(reference=rows["reference"].fillna(""), mean=rows["mean"].astype(float))
    return rows.sort_values(
        list(keys), key=lambda column: column.map(places[column.name].index) if column.name in places else column
    ).reset_index(drop=True)


# ---------------------------------------------------------------- sets and measures


def _sets(runs: Runs, ids: Sequence[str], asked: Asked) -> tuple[list[str], list[str]]:
    """The sets that have one of the measures as asked for, and remarks on those that have it in slices only."""
    numbers = group_numbers(runs, [axis for axis in runs.axes if axis not in replicates(runs.axes, asked.over)])
    firsts = list({numbers[id]: id for id in reversed(ids)}.values())  # replicates have the same sets and measures
    there = query(runs.root, 'SELECT DISTINCT set, measure, "by" FROM evaluations', ids=firsts)
    if there.empty:
        raise UserError(f"{runs.name}: no run has an evaluation, so there is nothing to summarise")
    for what, given, known in (("measure", asked.measures, there["measure"]), ("set", asked.sets, there["set"])):
        for name in given:
            if name not in set(known):
                raise unknown(what, name, set(known))
    studies = (RunFolder(runs.root / id).study for id in reversed(firsts))
    monitored = dict.fromkeys(name for study in studies for name in study.get("monitored", []))
    sets = list(asked.sets) or [name for name in monitored if name in set(there["set"])] or sorted(set(there["set"]))
    asked_for = there[there["measure"].isin(list(asked.measures)) & there["set"].isin(sets)]
    with_it = asked_for[asked_for["by"] == asked.by]
    if with_it.empty:
        slices = sorted(set(asked_for["by"]) - {asked.by})
        listed = ", ".join(f"--by {by}" if by else "overall means (no --by)" for by in slices) or "nothing else"
        raise UserError(
            f"no {' or '.join(asked.measures)} {f'by {asked.by}' if asked.by else 'as an overall mean'} on "
            f"{', '.join(sets)}; there is {listed}"
        )
    notes = []
    for measure in asked.measures:
        has = set(with_it[with_it["measure"] == measure]["set"])
        missing = [name for name in sets if name not in has]
        what = f"slices by {asked.by}" if asked.by else "overall mean"
        notes += [f"{measure} on {', '.join(missing)}: no {what}"] if missing else []
    return [name for name in sets if name in set(with_it["set"])], notes


# ---------------------------------------------------------------- steps


def _steps(runs: Runs, ids: Sequence[str], step: int | str) -> tuple[dict[str, int], str, list[str]]:
    """The step at which each run is read, the same in words, and remarks."""
    rows = runs.query("SELECT run, step FROM evaluations WHERE learner = 'model' AND step IS NOT NULL GROUP BY ALL")
    found = {str(run): sorted(map(int, here["step"])) for run, here in rows.groupby("run")}
    known = {id: found[id] for id in ids if id in found}
    if not known:
        raise UserError(f"{runs.name}: no run has an evaluation of its model")
    notes = []
    if missing := len(ids) - len(known):
        notes.append(f"{missing:,} finished runs have no evaluation of their model and are left out")
    lasts = {steps[-1] for steps in known.values()}
    if step == "last":
        at = {id: steps[-1] for id, steps in known.items()}
        return at, f"each run's last evaluation ({_span(lasts)})", notes
    if step == "best":
        return _best(runs, known, notes)
    if step == "common":
        shared = set.intersection(*(set(steps) for steps in known.values()))
        if not shared:
            raise UserError(f"{runs.name}: its runs share no evaluated step; choose --step last or best")
        step = max(shared)
        if lasts != {step}:
            notes.append(
                f"step {step:,} is the last that all runs share; their own last are {_span(lasts)} (--step last)"
            )
    at = {id: int(step) for id, steps in known.items() if int(step) in steps}
    if not at:
        near = sorted({s for steps in known.values() for s in steps}, key=lambda s: abs(s - int(step)))[:3]
        raise UserError(f"--step {step}: no run was evaluated there; nearest: {', '.join(map(str, sorted(near)))}")
    if missing := len(known) - len(at):
        notes.append(f"{missing:,} runs were not evaluated at step {step:,} and are left out")
    return at, f"step {int(step):,}", notes


def _best(runs: Runs, known: Mapping[str, Sequence[int]], notes: list[str]) -> tuple[dict[str, int], str, list[str]]:
    """Each run's own best step, as its folder has it."""
    at, measures = {}, set()
    for id, steps in known.items():
        path = runs.root / id / "checkpoints" / "best.json"
        best = json.loads(path.read_bytes()) if path.exists() else {"step": -1}
        if best["step"] in steps:
            at[id] = best["step"]
            measures.add(best["measure"])
    if not at:
        raise UserError("--step best: no run has a best checkpoint (record.best); choose --step common or last")
    if missing := len(known) - len(at):
        notes.append(f"{missing:,} runs have no best checkpoint and are left out")
    return at, f"each run's best step by {', '.join(sorted(measures))} ({_span(set(at.values()))})", notes


def _span(steps: set[int]) -> str:
    low, high = min(steps), max(steps)
    return f"step {low:,}" if low == high else f"steps {low:,} to {high:,}"
