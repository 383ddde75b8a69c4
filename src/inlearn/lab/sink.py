"""Where a training run writes: its folder, its log, the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from inlearn.core.files import read_json, write_json
from inlearn.lab.logs import logger_of
from inlearn.lab.mirrors import Mirror
from inlearn.runs.checkpoints import Checkpoint, CheckpointStore
from inlearn.runs.folder import RunFolder
from inlearn.runs.lease import Lease
from inlearn.runs.lines import MetricsWriter
from inlearn.runs.trajectory import Trajectory
from inlearn.training.learner import Learner


class FolderSink:
    """`Sink` of the training loop over one run folder."""

    def __init__(
        self,
        folder: RunFolder,
        lease: Lease,
        rolling: float,
        trajectory: Trajectory | None,
        progress: Progress,
        mirrors: Sequence[Mirror] = (),
    ):
        self.folder, self.lease, self.rolling, self.progress = folder, lease, rolling, progress
        self.metrics = MetricsWriter(folder.path / "metrics.jsonl")
        self.checkpoints = CheckpointStore(folder.path)
        self.dense = trajectory
        self.mirrors = mirrors
        self.log = logger_of(folder.path)
        self.saved_at = time.monotonic()

    def line(self, line: Mapping[str, Any]) -> None:
        self.metrics.write(line)
        if line["event"] == "training":
            self.lease.check()
            self.metrics.flush()
            self.progress.update(line["step"], line["loss"])
        for mirror in self.mirrors:
            mirror.line(line)

    def trajectory(self, step: int, row: Tensor) -> None:
        self.dense.append(step, row.cpu().float())

    def overdue(self) -> bool:
        return time.monotonic() - self.saved_at > self.rolling

    def checkpoint(self, learner: Learner, kept: frozenset[int]) -> None:
        progress = learner.progress
        # First, because several processes may have to bring their parts together for it.
        content = Checkpoint(progress.step, learner.weights(), learner.optimiser_state(), progress.as_dict())
        self.lease.check()
        lengths = {"metrics.jsonl": self.metrics.flush(sync=True)}
        if self.dense is not None:
            lengths["trajectory"] = self.dense.sync()
        if progress.step not in self.checkpoints.steps():
            if progress.step not in kept:
                self._set_rolling([*self._rolling(), progress.step])
            self.checkpoints.save(content, lengths)
        self.tidy(learner, kept)
        self.folder.set_status("running", progress.step)
        self.saved_at = time.monotonic()
        for mirror in self.mirrors:
            mirror.checkpoint(progress.step)
        self.log.debug("checkpoint at step %d", progress.step)

    def tidy(self, learner: Learner, kept: frozenset[int]) -> None:
        """Point at the best, and drop earlier checkpoints that are on no schedule and were only there for safety."""
        best = learner.progress.best
        if best is not None and best != self.checkpoints.best():
            self.checkpoints.set_best(**best)
        rolling, there = self._rolling(), self.checkpoints.steps()
        spared = {learner.progress.step, best["step"] if best else None}
        left = [step for step in rolling if step in there and step in spared and step not in kept]
        for step in rolling:
            if step in there and step not in left and step not in kept:
                self.checkpoints.remove(step)
        if left != rolling:
            self._set_rolling(left)

    def _rolling(self) -> list[int]:
        """Steps whose checkpoints are on no schedule. Their list is written before they are, so none is forgotten."""
        path = self.checkpoints.path / "rolling.json"
        return read_json(path) if path.exists() else []

    def _set_rolling(self, steps: list[int]) -> None:
        path = self.checkpoints.path / "rolling.json"
        if steps:
            write_json(path, steps)
        else:
            path.unlink(missing_ok=True)

    def close(self, flush: bool) -> None:
        """Close the files; without `flush`, what waits is dropped: the folder is another process's now."""
        with contextlib.ExitStack() as rest:  # whatever becomes of the lines
            rest.callback(self.progress.close)
            if self.dense is not None:
                rest.callback(self.dense.close)
            self.metrics.close(flush)


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, first: int, last: int, say: Any = print, bar: bool = True):
        self.first, self.last, self.say = first, last, say
        self.started = self.spoke = time.monotonic()
        self.bar = None
        if bar and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task("training", total=last, completed=first, loss="")
            self.bar.start()

    def update(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=step, loss=f"{loss:.4f}")
        elif now - self.spoke > 10.0 or step == self.last:
            pace = (now - self.started) / max(1, step - self.first)
            self.say(
                f"step {step:,} of {self.last:,}  loss {loss:.4f}  "
                f"{1e3 * pace:.1f} ms a step  {pace * (self.last - step):.0f} s left"
            )
            self.spoke = now

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
