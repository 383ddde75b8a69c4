"""One run's folder while a process trains it: held, taken up where it stood, written to, and left in order."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from inlearn.core.errors import EnvironmentFault
from inlearn.core.files import write_bytes, write_json
from inlearn.evaluation.evaluate import KEPT, Evaluator
from inlearn.lab.build import Built
from inlearn.lab.config import RunBase, stored
from inlearn.lab.execution import differences, launch_of, resume_command, segment
from inlearn.lab.logs import run_log
from inlearn.lab.mirrors import mirrors_of
from inlearn.lab.sink import FolderSink, Progress
from inlearn.runs.checkpoints import Checkpoint, CheckpointStore
from inlearn.runs.folder import RunFolder
from inlearn.runs.lease import Lease
from inlearn.runs.lines import read_lines, truncate
from inlearn.runs.trajectory import Trajectory
from inlearn.training.learner import Learner
from inlearn.training.loop import Outcome, Plan

Say = Callable[[str], None]


class RunFailed(EnvironmentFault):
    """Training could not go on: the loss stopped being a number, or a phase missed its end condition."""


class Sitting:
    """`with` holds the lease and the log; then, in this order, `take_up`, `open`, training, `leave`, `conclude`.

    members: how many runs the process trains as one stack; none for a model alone.
    """

    def __init__(
        self,
        folder: RunFolder,
        built: Built,
        learner: Learner,
        carried: Mapping[str, Any] | None,
        say: Say,
        members: int | None = None,
    ):
        self.folder, self.built, self.learner, self.carried, self.say = folder, built, learner, carried, say
        self.members, self.config = members, built.config
        self.launch, self.why_launch = launch_of(folder, built, members is not None)  # how updates are made
        self.evaluator = Evaluator(built.study, self.config.seeds, KEPT // (members or 1))
        self.sink: FolderSink | None = None

    def __enter__(self) -> Sitting:
        with contextlib.ExitStack() as held:
            self.lease = held.enter_context(Lease(self.folder.path, self.say))
            self.log = held.enter_context(run_log(self.folder.path, self.config.execution.log_level))
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    # ------------------------------------------------------------ before

    def take_up(self) -> bool:
        """Load the last good checkpoint, or write what comes before the first step; False if nothing is left to do."""
        folder, config, learner = self.folder, self.config, self.learner
        self.checkpoint, before = self._last_good()
        self.resumed = before is not None
        progress = learner.progress
        if progress.failed:
            raise RunFailed(f"run {folder.id} failed: {progress.ended}")
        if folder.status.state == "finished" and (progress.ended is not None or progress.step >= config.training.last):
            self._say_done()
            return False
        if before:
            _cut(folder, before["lengths"])
        _remember(folder, config)
        now = segment(self.built, progress.step, self.members, self.launch)
        if folder.segments and (changes := differences(folder.segments[-1], now)):
            self.log.warning("resumed elsewhere, so the last bits may differ: %s", "; ".join(changes))
        folder.add_segment(now)
        if not before:
            self._begin()
        processes = self.built.ranks.world
        shared = f" in {processes} processes ({self.built.parallel})" if processes > 1 else ""
        shared = shared if self.members is None else f" in a stack of {self.members}"
        self.log.info(
            "run %s: %s, %s parameters, on %s%s, steps %s to %s",
            folder.id,
            folder.study["kind"],
            f"{learner.count:,}",
            self.built.device,
            shared,
            f"{progress.step:,}",
            f"{config.training.last:,}",
        )
        self.log.info("updates: %s (%s)", self.launch, self.why_launch)
        if self.built.why_kernels is not None:
            self.log.warning("%s", self.built.why_kernels)
        return True

    def _last_good(self) -> tuple[Checkpoint | None, dict[str, Any] | None]:
        """The checkpoint that the learner now holds, and its manifest; Nones where the run has not begun."""
        loaded = CheckpointStore(self.folder.path).load_last_good(self.log.warning)
        if loaded is None:
            if any(line["step"] for line in read_lines(self.folder.path / "metrics.jsonl")):
                raise EnvironmentFault(
                    f"{self.folder.path} has metrics of a run under way and no checkpoint; put its checkpoints folder "
                    "back, or delete the run folder to train from the start"
                )
            return None, None
        checkpoint, manifest = loaded
        self.learner.load(checkpoint.weights, checkpoint.optimiser, checkpoint.state)
        return checkpoint, manifest

    def _say_done(self) -> None:
        progress = self.learner.progress
        where = f"run {self.folder.id} is at step {progress.step:,} already"
        if progress.ended is not None:
            self.say(f"{where}: {progress.ended}")
        elif progress.step < self.config.training.steps:
            self.say(f"{where}; {resume_command(self.folder, self.built.ranks)} training.until=none goes on")
        else:
            self.say(where)

    def _begin(self) -> None:
        """Write what comes before the first step, on a folder that nothing was learned in: leftovers of a kill go."""
        folder = self.folder.path
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        if (folder / "trajectory").exists():
            Trajectory.open(folder / "trajectory").truncate(0)
        lines = self.evaluator.references()
        write_bytes(
            folder / "references.jsonl", b"".join(json.dumps(x, allow_nan=False).encode() + b"\n" for x in lines)
        )
        if (carried := self.carried) is not None:
            write_json(folder / "carried.json", carried)
            taken, fresh = len(carried["carried"]), carried["fresh"]
            names = f"; fresh: {', '.join(fresh[:4])}{' …' if len(fresh) > 4 else ''}" if fresh else ""
            self.log.warning(
                f"{taken} of {taken + len(fresh)} parameters come from {carried['parent']}{names} (carried.json)"
            )

    # ------------------------------------------------------------ during

    def open(self) -> FolderSink:
        """The files and trackers that training writes to."""
        folder, config, learner = self.folder, self.config, self.learner
        dense = None
        if config.record.trajectory is not None:
            dense = Trajectory(folder.path / "trajectory", learner.parameters.layout)
        bar = self.members is None  # a terminal has room for one
        progress = Progress(learner.progress.step, config.training.last, self.log.info, bar)
        folder.set_status("running", learner.progress.step)
        mirrors = mirrors_of(folder, config)
        self.sink = FolderSink(folder, self.lease, config.record.rolling, dense, progress, mirrors)
        # What a kill left between a checkpoint and its tidying.
        self.sink.tidy(learner, Plan(config.training, config.record).checkpoints)
        self.began = time.monotonic()
        return self.sink

    # ------------------------------------------------------------ after

    def leave(self, outcome: Outcome) -> None:
        """Write the last of a process, each part whatever became of the others; nothing where the lease went to
        another."""
        ours, step = self.lease.is_ours(), self.learner.progress.step
        seconds = time.monotonic() - self.began
        try:
            self.sink.close(flush=ours)
        except EnvironmentFault as fault:
            outcome = Outcome("failed", str(fault))
            raise
        finally:
            with contextlib.ExitStack() as rest:  # in the reverse of this order
                for mirror in reversed(self.sink.mirrors):
                    rest.callback(mirror.end, outcome)
                if ours:
                    rest.callback(self.folder.amend_segment, to_step=step, seconds=round(seconds, 1))
                    rest.callback(self.folder.set_status, outcome.state, step, outcome.reason or "")

    def conclude(self, outcome: Outcome) -> None:
        """Say how it ended; raise `RunFailed` where it failed."""
        folder, step = self.folder, self.learner.progress.step
        if outcome.state == "failed":
            raise RunFailed(f"run {folder.id} failed: {outcome.reason}")
        if outcome.state == "interrupted":
            command = resume_command(folder, self.built.ranks)
            self.say(f"run {folder.id} is saved at step {step:,}; go on with: {command}")
        else:
            why = f": {outcome.reason}" if outcome.reason else ""
            self.say(f"run {folder.id} is at step {step:,} of {self.config.training.steps:,}{why}")


def _cut(folder: RunFolder, lengths: Mapping[str, int]) -> None:
    """Cut away what was written after the checkpoint: it will be written again, the same."""
    truncate(folder.path / "metrics.jsonl", lengths["metrics.jsonl"])
    if (folder.path / "trajectory").exists():
        # A checkpoint from before a trajectory was asked for knows no rows of it.
        Trajectory.open(folder.path / "trajectory").truncate(lengths.get("trajectory", 0))


def _remember(folder: RunFolder, config: RunBase) -> None:
    """Keep what this invocation asked for beside the identity, so that the next resume goes to the same end."""
    document = stored(config, folder.config["config"])
    for key in ("name", "tags"):  # not naming a run again does not take its name away
        document["unhashed"][key] = document["unhashed"][key] or folder.config["unhashed"][key]
    if document["unhashed"] != folder.config["unhashed"]:
        write_json(folder.path / "config.json", document)
        folder.__dict__.pop("config", None)
