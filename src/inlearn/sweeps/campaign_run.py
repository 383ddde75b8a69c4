"""Carries out a campaign: one plan an experiment, in order, as far as its gates let it.

Nothing of how it stands is remembered: plans and runs say what is done, and gates are decided anew from the runs. So
the same command goes on wherever the last one stopped. The log of decisions is there to be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.analyse import asked_for as analysis_asked_for
from inlearn.lab.build import build_study
from inlearn.lab.config import compose
from inlearn.lab.interrupts import interrupts
from inlearn.sweeps.campaign import NAME, Campaign, Experiment, Value
from inlearn.sweeps.campaign_values import Decision, Measured, check_value, decide, keep
from inlearn.sweeps.engines.config import EngineConfig
from inlearn.sweeps.folder import PlanFolder, check_plan
from inlearn.sweeps.plan import Plan, with_overrides
from inlearn.sweeps.planned import PlannedRun, planned, spelling
from inlearn.sweeps.standing import standings
from inlearn.sweeps.sweep import sweep

Say = Callable[[str], None]
SAME = ({"training.steps", "training.epochs"}, {"model.width", "model.match_params"})  # two words for one thing
OURS = {"seed": "--seeds 1..5", "name": "--name", "start": "`start` of an experiment in the campaign's file"}


@dataclass(frozen=True)
class Asked:
    """A campaign as the command line means it. `prefix`: of the names of its runs."""

    campaign: Campaign
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    prefix: str = ""

    def plan(self, one: Experiment, starts: Sequence[tuple[int, str]] | None = None) -> Plan:
        """The plan of an experiment; `starts` gives (seed, checkpoint) for one that begins with another's weights."""
        campaign = self.campaign
        given = {text.partition("=")[0].strip() for text in self.overrides}
        instead = {key for pair in SAME if pair & given for key in pair}
        asked = {key: value for key, value in {**campaign.set, **one.set}.items() if key not in instead}
        name = f"{self.prefix}{one.name}_run{{seed}}"
        plan = Plan(
            study=campaign.study,
            name=f"{campaign.name}.{one.name}",
            set={**asked, "name": name},
            grid={"seed": list(self.seeds)} if starts is None else {},
            zip=({"seed": [seed for seed, _ in starts], "start": [from_ for _, from_ in starts]},) if starts else (),
        )
        return with_overrides(plan, self.overrides, spelling(discovery.study(campaign.study)))


def asked_for(
    campaign: Campaign, seeds: tuple[int, ...] | None, overrides: Sequence[str], name: str | None = None
) -> Asked:
    """What the command line means. `UserError` for keys that a campaign gives itself."""
    for text in overrides:
        if (key := text.partition("=")[0].strip()) in OURS:
            raise UserError(f"{text}: a campaign gives {key} itself; expected {OURS[key]}")
    if name is not None and not re.fullmatch(NAME, name):
        raise UserError(f"--name {name}: expected up to 50 letters, digits, _ and -, beginning with a letter or digit")
    prefix = f"{name}." if name else ""
    named = campaign.model_copy(update={"name": name}) if name else campaign
    return Asked(named, seeds or campaign.seeds, tuple(overrides), prefix)


@dataclass
class Fate:
    """What became of an experiment. `why` it was left out, or what to know of it; `ran`: it has a plan."""

    experiment: Experiment
    runs: list[PlannedRun] = field(default_factory=list)
    ran: bool = False
    why: str = ""


@dataclass
class Course:
    """What an invocation of a campaign did: fates in order, decisions, what went wrong, and why it stopped early."""

    asked: Asked
    root: Path
    measured: Measured
    fates: list[Fate] = field(default_factory=list)
    decisions: dict[tuple[str, str], Decision] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    stopped: str = ""

    @property
    def folder(self) -> Path:
        return self.root / ".campaigns" / self.asked.campaign.name

    @property
    def verdicts(self) -> dict[tuple[str, str], str]:
        return {key: decision.verdict for key, decision in self.decisions.items()}


def check(asked: Asked, root: Path) -> list[list[PlannedRun]]:
    """The runs of every experiment, those that begin with others' weights as if they did not; nothing is made.

    `UserError` where one cannot be a plan, two are the same runs, a plan of that name is another one, or a value that
    is asked for does not exist.
    """
    every, whose = [], {}
    for one in asked.campaign.experiments:
        plan = asked.plan(one)
        try:
            runs, _ = planned(plan, root)
            if one.start is None:
                check_plan(root, plan, runs)
        except UserError as error:
            raise UserError(f"experiment {one.name}: {error}") from None
        for run in runs:
            other = whose.setdefault((run.id, one.start), one.name)
            if other != one.name:
                raise UserError(
                    f"experiments {other} and {one.name} ask for the same run, {run.id}; nothing tells them apart"
                )
        every.append(runs)
    _check_values(asked, [runs[0].overrides for runs in every])
    return every


def _check_values(asked: Asked, words: Sequence[Sequence[str]]) -> None:
    """Raise `UserError` for a value that no experiment has; `words` are those of a run of each."""
    campaign = asked.campaign
    configs = [compose(discovery.study(campaign.study), run) for run in words]
    for one, config in zip(campaign.experiments, configs, strict=True):
        if campaign.at == "best" and config.record.best is None:
            raise UserError(f"experiment {one.name}: at = best needs record.best, the value that says which is best")
    for analysed, _ in campaign.analysed():
        analysis_asked_for(analysed.analysis, analysed.overrides)
    study_of = cache(lambda place: build_study(configs[place]))
    speed = [Value(set=campaign.speed.set, measure=campaign.speed.measure)] if campaign.speed else []
    for value in (*campaign.values(), *speed):
        reasons = []
        for place in range(len(configs)):
            try:
                check_value(study_of(place), value)
                break
            except UserError as error:
                reasons.append(error)
        else:
            raise reasons[0]
    if campaign.speed and campaign.speed.set not in study_of(0).monitored:
        raise UserError(f"speed.set = {campaign.speed.set} is not evaluated while training: {study_of(0).monitored}")


def carry_out(
    asked: Asked, engine: EngineConfig, root: Path, say: Say, retry_failed: bool = False, renew: bool = False
) -> Course:
    """Carry out what is left, experiment by experiment. `UserError` before anything is made where `check` raises."""
    check(asked, root)
    course = Course(asked, root, Measured(root, asked.campaign.at, say))
    fates: dict[str, Fate] = {}
    with interrupts() as interrupted:
        for one in asked.campaign.experiments:
            fate = fates[one.name] = Fate(one)
            course.fates.append(fate)
            if why := waits(one, fates, course.verdicts):
                fate.why = why
                say(f"{one.name} is left out: {why}")
                continue
            plan = _plan(course, fates, fate)
            if plan is None:
                say(f"{one.name} is left out: {fate.why}")
                continue
            outcome = sweep(plan, engine, root, say, retry_failed, renew)
            fate.ran, fate.runs = True, list(outcome.plan.runs)
            if problem := outcome.problem():
                course.problems.append(problem)
            if outcome.summary.stopped or interrupted():
                course.stopped = outcome.summary.stopped or "interrupted"
                return course
            _decide(course, fate, say)
    return course


def waits(one: Experiment, fates: dict[str, Fate], verdicts: dict[tuple[str, str], str]) -> str:
    """Why an experiment is not to be carried out, as its gates stand; empty where it is."""
    for name in one.waits_for():
        if not fates[name].ran:
            return f"{name} was left out"
    for gates, wanted in ((one.after, "passed"), (one.fallback, "failed")):
        for name, gate in gates.items():
            verdict = verdicts.get((name, gate), "undecided")
            if verdict != wanted:
                return f"{name}: {gate} {verdict}" + (", this is its fallback" if wanted == "failed" else "")
    return ""


def _plan(course: Course, fates: dict[str, Fate], fate: Fate) -> Plan | None:
    """The experiment's plan; None (with the fate's reason) where no run is there that it could begin with."""
    one = fate.experiment
    if one.start is None:
        return course.asked.plan(one)
    parent, which = one.start.split("@")
    found = {seed_of(s.run): s for s in standings(course.root, fates[parent].runs)}
    starts = [(seed, f"{found[seed].run.id}@{which}") for seed in course.asked.seeds if found[seed].done]
    lacking = [f"seed {seed}: {parent} is {found[seed].state}" for seed in course.asked.seeds if not found[seed].done]
    fate.why = "; ".join(lacking)
    return course.asked.plan(one, starts) if starts else None


def seed_of(run: PlannedRun) -> int:
    """A plan of one seed has no axis."""
    return next(int(text.partition("=")[2]) for text in run.overrides if text.startswith("seed="))


def _decide(course: Course, fate: Fate, say: Say) -> None:
    """Decide every gate on an experiment that was carried out; say so, and keep it."""
    campaign, name = course.asked.campaign, fate.experiment.name
    for gate in campaign.gates:
        decision = decide(course.measured, campaign, name, gate, fate.runs)
        course.decisions[name, gate] = decision
        say(str(decision))
        keep(course.folder / "decisions.jsonl", campaign.gates[gate], decision)


def plan_folder(asked: Asked, root: Path, one: Experiment) -> PlanFolder | None:
    """The stored plan of an experiment, if it was begun."""
    folder = PlanFolder(root / ".plans" / f"{asked.campaign.name}.{one.name}")
    return folder if (folder.path / "runs.jsonl").exists() else None
