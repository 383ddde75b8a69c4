"""What a campaign found: the comparison of its experiments, and its questions answered by paired differences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from inlearn.core.errors import UserError
from inlearn.lab.opened import Run
from inlearn.runs.folder import RunFolder
from inlearn.runs.metrics import evaluation_table
from inlearn.statistics.intervals import mean_interval
from inlearn.sweeps.campaign import Campaign, Comparison, Speed, Value
from inlearn.sweeps.campaign_run import Course, Fate, seed_of
from inlearn.sweeps.differences import differences
from inlearn.sweeps.many import Runs
from inlearn.sweeps.planned import PlannedRun
from inlearn.sweeps.readings import Asked, Readings
from inlearn.sweeps.standing import count, standings
from inlearn.sweeps.summarise import curves, summarise

INSUFFICIENT = 3  # with fewer runs a mean says nothing
AXIS = "experiment"


@dataclass(frozen=True)
class Findings:
    """Long tables at full precision, and what to know of them.

    experiments: one row each: experiment, phase, about, n, mean, std, low, high (of the campaign's `result`), mark,
    updates, epochs (until the share of its last value that `speed` names; missing where it did not rise), gates,
    state. groups: as a summary's, of every value asked for, its slice named in the measure. answers: question, first,
    second, value, difference, std, low, high, p, n, mark, answer. curves: of the measure that `speed` names.
    """

    experiments: pd.DataFrame
    groups: pd.DataFrame
    answers: pd.DataFrame
    curves: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def find(course: Course) -> Findings:
    """The findings of what has finished so far; empty tables where nothing has."""
    campaign, measured = course.asked.campaign, course.measured
    runs = _all_runs(course)
    done = [s.run.id for s in runs.standings if s.done]
    readings = {str(value): _named(measured.readings(done, value), value) for value in campaign.values()}
    of = {run.id: run.axes[AXIS] for run in runs.runs}
    for asked, names in campaign.analysed():
        compared = [id for id in done if of[id] in names]
        readings[str(asked)] = measured.analysed_readings(compared, asked)
    notes = [note for one in readings.values() for note in one.notes]
    groups, over_training = pd.DataFrame(), pd.DataFrame()
    if done:
        tables = [one.values for one in readings.values()]
        together = Readings(pd.concat(tables, ignore_index=True), done, f"each run's {campaign.at} checkpoint", [])
        summary = summarise(runs, Asked(over=("seed",)), together)
        groups = summary.groups
        notes += [note for note in summary.notes if "groups have no" not in note]
        if campaign.speed is not None:
            over_training = _curves(runs, campaign.speed, notes)
    experiments = [_row(course, fate) for fate in course.fates]
    answers = [_answer(course, runs, readings, ask, pair) for ask, pair in _pairs(campaign)]
    return Findings(pd.DataFrame(experiments), groups, pd.DataFrame(answers), over_training, notes)


def mark(n: int, minimum: int) -> str:
    """What a reader must know of a group of `n` runs."""
    if n < INSUFFICIENT:
        return "insufficient"
    return f"below the plan's minimum of {minimum}" if n < minimum else ""


def _all_runs(course: Course) -> Runs:
    """Every run of every experiment that was carried out, told apart by experiment and seed."""
    found = [
        PlannedRun(run.id, {AXIS: fate.experiment.name, "seed": seed_of(run)}, run.overrides, run.last)
        for fate in course.fates
        for run in fate.runs
    ]
    return Runs(course.root, found, course.asked.campaign.name)


def _named(readings: Readings, value: Value) -> Readings:
    """A slice as a measure of its own, so that all values fit one table."""
    slice_ = "".join(f", {name} {level}" for name, level in value.at.items())
    values = readings.values.assign(measure=value.measure + slice_).drop(columns=list(value.at))
    return replace(readings, values=values)


def _curves(runs: Runs, speed: Speed, notes: list[str]) -> pd.DataFrame:
    try:
        return curves(runs, Asked((speed.measure,), (speed.set,), over=("seed",)))
    except UserError as error:
        notes.append(str(error))
        return pd.DataFrame()


# ---------------------------------------------------------------- one experiment


def _row(course: Course, fate: Fate) -> dict[str, Any]:
    campaign, one = course.asked.campaign, fate.experiment
    done = [s.run.id for s in standings(course.root, fate.runs) if s.done]
    values = [course.measured.read(id, campaign.result) for id in done]
    found = mean_interval([value for value in values if value is not None and math.isfinite(value)])
    row: dict[str, Any] = {"experiment": one.name, "phase": one.phase, "about": one.about, **vars(found)}
    row["mark"] = mark(found.n, campaign.minimum) if fate.ran else ""
    updates = [reached(RunFolder(course.root / id), campaign.speed) for id in done] if campaign.speed else []
    moved = [step for step in updates if step is not None]
    row["updates"] = float(np.mean(moved)) if moved else math.nan
    an_epoch = updates_an_epoch(Run(RunFolder(course.root / done[0]))) if moved else None
    row["epochs"] = row["updates"] / an_epoch if an_epoch else math.nan
    row["moved"] = len(moved)
    verdicts = {gate: course.verdicts.get((one.name, gate)) for gate in campaign.gates}
    row["gates"] = ", ".join(f"{gate} {verdict}" for gate, verdict in verdicts.items() if verdict)
    row["state"] = count(standings(course.root, fate.runs)) if fate.ran else f"left out: {fate.why}"
    return row


def reached(folder: RunFolder, speed: Speed) -> int | None:
    """The first step at which the measure had come to `speed.share` of its last value.

    None where it was there before training: it did not rise.
    """
    table = evaluation_table(folder, references=False)
    here = table[(table["set"] == speed.set) & (table["measure"] == speed.measure) & (table["by"] == "")]
    here = here[here["reference"].isna() & np.isfinite(here["mean"].astype(float))].sort_values("step")
    if here.empty:
        return None
    wanted = speed.share * float(here["mean"].iloc[-1])
    first = int(here[here["mean"] >= wanted]["step"].iloc[0])
    return first if first > int(here["step"].iloc[0]) else None


def updates_an_epoch(run: Run) -> float | None:
    """Updates of one pass over the run's data; None where the data has no end."""
    rows = run.config.study.rows_an_epoch
    return None if rows is None else rows / run.config.training.batch


# ---------------------------------------------------------------- questions


def _pairs(campaign: Campaign) -> list[tuple[str, Comparison]]:
    return [(question.ask, pair) for question in campaign.questions for pair in question.compare]


def _answer(course: Course, runs: Runs, readings: dict[str, Readings], ask: str, pair: Comparison) -> dict[str, Any]:
    campaign = course.asked.campaign
    value = pair.analysed or pair.of or campaign.result
    row: dict[str, Any] = {"question": ask, "first": pair.first, "second": pair.second, "value": str(value)}
    row |= dict.fromkeys(("difference", "std", "low", "high", "p"), math.nan) | {"n": 0, "mark": ""}
    if why := _unanswerable(course, runs, readings[str(value)], pair):
        return row | {"answer": f"not answered: {why}"}
    try:
        found, _ = differences(readings[str(value)], runs, ["seed"], [], f"{AXIS}={pair.first},{pair.second}")
    except UserError:
        return row | {"answer": "not answered: no seed has finished in both"}
    (here,) = found.to_dict("records")
    row |= {key: here[key] for key in ("difference", "std", "low", "high", "p", "n")}
    row["mark"] = mark(row["n"], campaign.minimum)
    return row | {"answer": _words(row)}


def _unanswerable(course: Course, runs: Runs, readings: Readings, pair: Comparison) -> str:
    fates = {fate.experiment.name: fate for fate in course.fates}
    of = {run.id: run.axes[AXIS] for run in runs.runs}
    measured = {of[id] for id in readings.ids}
    for name in (pair.first, pair.second):
        if name not in fates:
            return f"{name} was not reached"
        if not fates[name].ran:
            return f"{name} was left out ({fates[name].why})"
        if name not in measured:
            return f"no run of {name} has it"
    return ""


def _words(row: dict[str, Any]) -> str:
    if row["n"] < 2 or not math.isfinite(row["low"]):
        return f"not answered: {row['difference']:+.4f}, and one pair has no interval"
    told = f"{row['difference']:+.4f}, 95 % interval [{row['low']:+.4f}, {row['high']:+.4f}]"
    if row["n"] < INSUFFICIENT:
        return f"not answered by {row['n']} pairs: {told}"
    if row["low"] <= 0 <= row["high"]:
        return f"no difference shown: {told}"
    return f"{row['second']} is {'higher' if row['difference'] > 0 else 'lower'} than {row['first']}: {told}"
