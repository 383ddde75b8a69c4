"""One invocation of `inlearn sweep`, from its words to what it did."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inlearn.core.configuration import Tree, assign, resolve, split_override
from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.lab import discovery
from inlearn.lab.interrupts import interrupts
from inlearn.lab.object_storage import push_run, unsent
from inlearn.runs.folder import RunFolder, differences
from inlearn.runs.lease import Held
from inlearn.sweeps.coordinate import Summary, carry_out
from inlearn.sweeps.engine import Result
from inlearn.sweeps.engines.config import EngineConfig, Invocation
from inlearn.sweeps.folder import Changed, PlanFolder, store_plan
from inlearn.sweeps.plan import Plan, read_plan, with_overrides
from inlearn.sweeps.planned import document_of, planned, spelling
from inlearn.sweeps.standing import Standing, count, standings

Say = Callable[[str], None]


def asked_for(words: str, overrides: Sequence[str] = (), name: str | None = None) -> tuple[Plan, EngineConfig]:
    """The plan and the engine that the command line means. `words`: a study's name or file, or a plan's file."""
    if (world := os.environ.get("WORLD_SIZE", "1")) != "1":  # workers would take themselves for torchrun's processes
        raise UserError(f"WORLD_SIZE = {world}: a sweep is started once, not by torchrun, which is for a single run")
    engine: Tree = {}
    ours = [text for text in overrides if split_override(text)[0].partition(".")[0] == "engine"]
    for text in sorted(ours, key=lambda text: "." in text.partition("=")[0]):  # the choice before its keys
        key, value = split_override(text)
        if (key, value) in {("engine", "solo"), ("engine", "stacked")}:  # what a single run may be asked
            stack = "none" if value == "solo" else "auto, or how many together, engine.stack=8"
            raise UserError(f"engine = {value}: a sweep's engine is local, slurm or ray; expected engine.stack={stack}")
        assign(Invocation, engine, key, "local" if (key, value) == ("engine", "auto") else value)
    if words.endswith((".yaml", ".yml")):
        plan = read_plan(Path(words))
    else:
        plan = Plan(study=str(Path(words).resolve()) if words.endswith(".py") else words)
    plan = with_overrides(plan, [text for text in overrides if text not in ours], spelling(discovery.study(plan.study)))
    return (plan.model_copy(update={"name": name}) if name else plan), resolve(Invocation, engine).engine


@dataclass(frozen=True)
class Outcome:
    """How a plan stands after an invocation, and what that invocation did."""

    plan: PlanFolder
    summary: Summary
    changed: Sequence[Changed]

    @property
    def standings(self) -> list[Standing]:
        return standings(self.plan.root, self.plan.runs)

    def problem(self) -> str | None:
        """One sentence on what is not as it was asked to be, or None. Being asked to stop is no problem."""
        found = self.standings
        done = {standing.run.id for standing in found if standing.done}
        failed = {s.run.id: s.reason for s in found if s.state == "failed"}
        failed |= {result.id: result.reason for result in self.summary.of("failed") if result.id not in done}
        damaged = [standing for standing in found if standing.state == "damaged"]
        unsent = [result for result in self.summary.of("failed") if result.id in done]  # whole here, not in storage
        refused, lost = self.summary.of("refused"), [] if self.summary.stopped else self.summary.of("lost")
        parts = []
        if failed:
            why = next(iter(failed.values()))
            parts.append(f"{len(failed):,} failed, the first because {why} (--retry failed tries them once more)")
        if damaged:
            parts.append(f"{len(damaged):,} have a damaged folder: {damaged[0].reason}")
        if unsent:
            parts.append(f"{len(unsent):,} finished and are not whole in storage: {unsent[0].reason}")
        if refused:
            parts.append(f"{len(refused):,} refused: {refused[0].reason}")
        if lost:
            parts.append(f"{len(lost):,} lost their worker again and again: {lost[0].reason}")
        if self.changed:
            parts.append(f"{len(self.changed):,} were made under another preset or version (--renew)")
        if not parts:
            return None
        parts += [self.summary.stopped] if self.summary.stopped else []
        return f"plan {self.plan.name}: {'; '.join(parts)}. `inlearn status {self.plan.name}` shows each run"


def sweep(
    plan: Plan, engine: EngineConfig, root: Path, say: Say = print, retry_failed: bool = False, renew: bool = False
) -> Outcome:
    """Carry out what is left of `plan` below `root`; `UserError` where it cannot be a plan, before anything is made."""
    wanted, remarks = planned(plan, root)
    for remark in remarks:
        say(f"note: {remark}")
    with interrupts():  # from the first file to the last word
        folder, changed = store_plan(root, plan, wanted, renew)
        for change in changed:
            say(_why_changed(folder, change))
        return _carry_out(folder, changed, engine, say, retry_failed, renew)


def _carry_out(
    folder: PlanFolder, changed: Sequence[Changed], engine: EngineConfig, say: Say, retry_failed: bool, renew: bool
) -> Outcome:
    root = folder.root

    def is_new() -> bool:
        return not folder.begun and not renew  # renewed runs have not begun, and yet their plan has

    say(f"plan {folder.name}: {len(folder.runs):,} runs: {count(standings(root, folder.runs))}")
    for told in _ask_of_finished(folder):
        say(f"note: {told}")
    try:
        summary = carry_out(folder, engine, say, retry_failed, {change.before.id for change in changed})
    except (UserError, EnvironmentFault):
        if is_new():  # the engine refused: the name is free again
            shutil.rmtree(folder.path)
        raise
    refused = summary.of("refused")
    if refused and len(refused) == len(summary.results) and is_new():  # nothing was made: the same here
        shutil.rmtree(folder.path)
        raise UserError(f"{refused[0].reason} (so of {len(refused):,} of {len(folder.runs):,} runs; none began)")
    summary.results |= _send(root, [s.run.id for s in standings(root, folder.runs) if s.done], say)
    outcome = Outcome(folder, summary, changed)
    say(f"plan {folder.name}: {count(outcome.standings)}")
    stays = engine.kind == "slurm" and summary.stopped == "interrupted"  # the engine says what goes on there
    if summary.stopped in ("interrupted", "cancelled") and not stays:
        say(f"{summary.stopped}: everything is saved; the same command goes on")
    return outcome


def _why_changed(plan: PlanFolder, change: Changed) -> str:
    """Which key of a run that is there already another preset or version would make different."""
    stored = RunFolder(plan.root / change.before.id).config
    asked = document_of(plan.root, plan.document["study"], change.now)
    key, old, new = next(differences(stored["config"], asked["config"]))
    return (
        f"run {change.before.id} ({change.before.label}) was made with {key} = {old}; the same words mean {new} now. "
        "It is left as it is; --renew plans it as a new run"
    )


def _ask_of_finished(plan: PlanFolder) -> list[str]:
    """Give finished runs the names that the plan gives them; remarks on what can no longer be recorded."""
    late = 0
    for standing in standings(plan.root, plan.runs):
        if standing.done:
            folder = RunFolder(plan.root / standing.run.id)
            asked = document_of(plan.root, plan.document["study"], standing.run)["unhashed"]
            if asked["name"] is not None and asked["name"] != folder.name:
                folder.claim_name(asked["name"])
            late += asked["record"] != folder.config["unhashed"]["record"]
    return [f"{late:,} finished runs keep what they recorded; this plan asks for other records"] if late else []


def _send(root: Path, ids: Sequence[str], say: Say) -> dict[str, Result]:
    """Send finished runs that an earlier upload left behind; those that cannot be sent now, as failed."""
    left = {}
    for id in unsent(root, ids):
        try:
            push_run(root, id, say)
        except (EnvironmentFault, Held) as fault:
            left[id] = Result(id, "failed", str(fault))
    return left
