"""Carries out a plan: what is not done yet goes to an engine, lost runs go again, runs held elsewhere are waited for.

Two processes may carry out one plan at once, on one machine or several: a run's lease lets one of them train it.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from inlearn.core.errors import EnvironmentFault
from inlearn.lab.interrupts import interrupts
from inlearn.runs.lease import lease_holder
from inlearn.runs.remote_pull import refresh_runs
from inlearn.runs.remote_root import shown, url_of
from inlearn.sweeps.engine import Engine, Job, Result, Wanted
from inlearn.sweeps.engines.config import EngineConfig
from inlearn.sweeps.folder import PlanFolder
from inlearn.sweeps.planned import PlannedRun
from inlearn.sweeps.stacking import Stacking
from inlearn.sweeps.standing import Standing, standings

Say = Callable[[str], None]
WAIT_SECONDS, REMOTE_WAIT_SECONDS = 1.0, 15.0


@dataclass
class Summary:
    """What one invocation did, by run id; `stopped` says why it ended before everything was done."""

    results: dict[str, Result] = field(default_factory=dict)
    stopped: str = ""

    def of(self, *states: str) -> list[Result]:
        return [result for result in self.results.values() if result.state in states]


def to_do(found: Sequence[Standing], retry_failed: bool = False) -> list[PlannedRun]:
    """The runs that an engine should get: not done, and failed ones only where they are to be tried once more."""
    left = [s for s in found if not s.done and (s.state != "failed" or retry_failed)]
    return [s.run for s in left if s.state != "damaged"]


def carry_out(
    plan: PlanFolder,
    config: EngineConfig,
    say: Say,
    retry_failed: bool = False,
    leave_out: Collection[str] = (),
) -> Summary:
    """Carry out what is not done of `plan`, but for the ids in `leave_out`, until all is done or it is to stop."""
    runs = {run.id: run for run in to_do(standings(plan.root, plan.runs), retry_failed) if run.id not in leave_out}
    stacking = Stacking(plan.document["study"], plan.root, config)
    stacking.check(plan.runs)
    engine = config.build(plan.path)
    with interrupts() as interrupted:
        return _Invocation(plan, config, engine, stacking, say, interrupted).all(runs)


class _Invocation:
    def __init__(
        self,
        plan: PlanFolder,
        config: EngineConfig,
        engine: Engine,
        stacking: Stacking,
        say: Say,
        interrupted: Callable[[], bool],
    ) -> None:
        self.plan, self.config, self.engine, self.stacking = plan, config, engine, stacking
        self.say, self.interrupted, self.root = say, interrupted, shown(plan.root)
        self.began = plan.now()
        self.summary = Summary()
        self.lost: Counter[str] = Counter()

    def all(self, runs: dict[str, PlannedRun]) -> Summary:
        progress = Progress(len(runs), self.say)
        try:
            waiting = list(runs)
            while waiting and not self.stop():
                self._round([runs[id] for id in waiting], progress)
                results = self.summary.results
                again = [id for id in waiting if id in results and results[id].state == "lost"]
                again = [id for id in again if self.lost[id] <= self.config.restarts]
                busy = [id for id in waiting if id in results and results[id].state == "busy"]
                # A round with a run that can go again at once does not wait for the ones held elsewhere.
                waiting = again + (busy if again else self._wait_for(busy))
        finally:
            progress.close()
        return self.summary

    def _round(self, runs: Sequence[PlannedRun], progress: Progress) -> None:
        engine = self.config.kind
        study = self.plan.document["study"]
        choice = self.stacking.choose(runs, self.lost)
        if choice.sentence and not self.summary.results:  # later rounds are of a few
            self.say(choice.sentence)

        company = {run.id: ids for group in choice.groups for ids in [{run.id for run in group}] for run in group}

        def report(result: Result) -> None:
            self.summary.results[result.id] = result
            self.lost[result.id] += result.state == "lost"
            try:
                self.plan.note(result, engine)
            except EnvironmentFault as fault:  # the runs' folders are what counts
                self.say(f"the plan's log lacks a line: {fault}")
            company[result.id].discard(result.id)
            progress.update(result, last=not company[result.id])

        groups = [tuple(Wanted(run.id, run.overrides) for run in group) for group in choice.groups]
        jobs = [Job(group, study, self.root) for group in groups]
        self.engine.carry_out(jobs, report, self.stop)

    def stop(self) -> bool:
        if self.summary.stopped:
            return True
        if self.interrupted():
            self.summary.stopped = "interrupted"
        elif self.plan.asked_to_leave(self.began):
            self.summary.stopped = "cancelled"
        elif self.config.stop_on_failure and (failed := self.summary.of("failed", "refused")):
            self.summary.stopped = f"stopped at the first failure, run {failed[0].id}"
        return bool(self.summary.stopped)

    def _wait_for(self, ids: list[str]) -> list[str]:
        """Wait until one of the runs that another process holds is let go; those that need to be taken up then."""
        if not ids:
            return []
        root, runs = self.plan.root, {run.id: run for run in self.plan.runs}
        self.say(f"waiting for {len(ids)} run{'s' * (len(ids) > 1)} that another process is training")
        while not self._pause(REMOTE_WAIT_SECONDS if url_of(root) else WAIT_SECONDS):
            if url_of(root):  # another machine's lease is seen only by trying; what it finished is seen here
                refresh_runs(root, ids)
            held = [id for id in ids if lease_holder(root / id) is not None]
            if len(held) < len(ids):
                free = standings(root, [runs[id] for id in ids if id not in held])
                for standing in free:
                    if standing.done or standing.state == "failed":
                        result = Result(standing.run.id, standing.state, standing.reason)
                        self.summary.results[standing.run.id] = result
                return [run.id for run in to_do(free)] + held
        return []

    def _pause(self, seconds: float) -> bool:
        """Wait, and whether to stop; a request to stop ends the wait."""
        end = time.monotonic() + seconds
        while not self.stop() and time.monotonic() < end:
            time.sleep(0.2)
        return self.stop()


class Progress:
    """A bar on a terminal; elsewhere a line at every failure, and one now and then."""

    def __init__(self, total: int, say: Say) -> None:
        self.total, self.say = total, say
        self.ended: dict[str, str] = {}
        self.began = self.spoke = time.monotonic()
        self.bar = None
        if sys.stderr.isatty() and total:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[bad]}"))
            self.bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task("runs", total=total, bad="")
            self.bar.start()

    def update(self, result: Result, last: bool) -> None:
        """`last`: no more are about to be told, as they are of a stack, so that what is left can be judged."""
        self.ended[result.id] = result.state
        if result.state in ("failed", "refused", "lost"):
            self.say(f"run {result.id} {result.state}: {result.reason}")
        done = sum(state == "finished" for state in self.ended.values())
        bad = sum(state in ("failed", "refused") for state in self.ended.values())
        if self.bar is not None:
            self.bar.update(self.task, completed=done + bad, bad=f"{bad} failed" if bad else "")
            return
        now = time.monotonic()
        if last and done + bad and (now - self.spoke > 10.0 or done + bad == self.total):
            ended = done + bad
            left = f", about {(now - self.began) / ended * (self.total - ended):.0f} s left"
            more = f", {bad} failed" if bad else ""
            self.say(f"{done:,} of {self.total:,} runs finished{more}{left if ended < self.total else ''}")
            self.spoke = now

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
