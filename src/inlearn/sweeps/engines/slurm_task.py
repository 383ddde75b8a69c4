"""What runs inside one task of a Slurm array: its jobs one after the other, and a requeue when Slurm wants the node.

A submission's folder holds, for task n:

<n>.json          the jobs, as they were submitted: runs, and stacks of runs
<n>.results.jsonl one line when a run begins here, and one when it ends
leave.json        there once the submission is cancelled: nothing begins, and nothing is requeued
*_<n>_0_log.out   what the task printed; .err beside it
*.pkl             submitit's own: which callable to start. Nothing but submitit reads them.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlearn.core.files import read_json, write_json
from inlearn.runs import lease
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import MetricsWriter, read_lines
from inlearn.runs.remote_root import open_root
from inlearn.sweeps.engine import Job
from inlearn.sweeps.engines.slurm_commands import state_of

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

    from inlearn.lab.interrupts import Interrupts

MOST_IDLE = 10  # starts in a row without a step trained: such a task would be requeued for ever
BUSY_SECONDS = 10.0
BEGUN = "begun"


def write_jobs(folder: Path, number: int, jobs: Sequence[Job]) -> None:
    write_json(folder / f"{number}.json", [asdict(job) for job in jobs])


def read_jobs(folder: Path, number: int) -> list[Job]:
    return [Job.read(job) for job in read_json(folder / f"{number}.json")]


def read_results(folder: Path, number: int) -> dict[str, dict[str, Any]]:
    """The last line of each run that began in the task, by id: `state` (also "begun"), `reason`, and `over`: whether
    the task is done with it. One that was interrupted by a signal is taken up when the task starts again, and one that
    another process holds ("busy") after the others, until a dead holder's lease would be stale."""
    path = folder / f"{number}.results.jsonl"
    return {line["id"]: line for line in read_lines(path)} if path.exists() else {}


def ask_to_leave(folder: Path) -> None:
    write_json(folder / "leave.json", {})


@dataclass
class Task:
    """The callable that submitit starts, and starts again after a requeue. `idle`: starts so far without a step."""

    folder: str
    number: int
    idle: int = 0
    _before: int = field(default=0, init=False)

    def __call__(self) -> None:
        import inlearn
        from inlearn.lab.interrupts import interrupts

        print(f"inlearn {inlearn.__version__} from {Path(inlearn.__file__).parent}", flush=True)
        self._before = self._steps()
        # submitit would requeue from within its handler, in the middle of a step: here the run saves first.
        with interrupts(signal.SIGUSR2) as interrupted:
            self._carry_out(interrupted)
        if interrupted() and self._left() and self._goes_on(interrupted):
            signal.raise_signal(signal.SIGUSR2)  # submitit's own handler again: it calls checkpoint() and requeues

    def checkpoint(self) -> DelayedSubmission | None:
        """What submitit starts after the requeue; None, which ends the job, where it leads nowhere."""
        from submitit.helpers import DelayedSubmission

        idle = 0 if self._steps() > self._before else self.idle + 1
        return None if idle > MOST_IDLE else DelayedSubmission(Task(self.folder, self.number, idle))

    def _carry_out(self, interrupted: Interrupts) -> None:
        from inlearn.sweeps.worker import carry_out

        def leaves() -> bool:
            return interrupted() or self._is_cancelled()

        lines = MetricsWriter(Path(self.folder) / f"{self.number}.results.jsonl")
        left, busy_since = deque(self._left()), {}
        while left and not leaves():
            if all(id in busy_since for job in left for id in job.ids) and _pause(leaves):
                break
            job, began = left.popleft(), time.monotonic()
            for id in job.ids:
                lines.write({"id": id, "state": BEGUN, "reason": "", "over": False})
            lines.flush()
            again = set()
            for result in carry_out(job):
                if result.state == "busy":
                    # The lease of a node that failed looks alive until it is stale; one still held then is alive.
                    over = began - busy_since.setdefault(result.id, began) > lease.STALE_SECONDS
                    again |= set() if over else {result.id}
                else:
                    over = result.state != "interrupted" or not interrupted()  # this run alone may be asked to leave
                lines.write(asdict(result) | {"over": over})
            lines.flush(sync=True)
            left.extend(job.only(again))
        lines.close()

    def _goes_on(self, interrupted: Interrupts) -> bool:
        """Whether to ask Slurm for another start. SIGUSR2: the time is up, or a job of higher priority waits."""
        if self._is_cancelled():
            return False
        # SIGTERM alone: after scancel and `scontrol requeue` the state tells that Slurm has decided; within the grace
        # time of a preemption the job still counts as running, and one that ends by itself then is not requeued.
        return signal.SIGUSR2 in interrupted.numbers or state_of(os.environ["SLURM_JOB_ID"]) == "RUNNING"

    def _left(self) -> list[Job]:
        """Its jobs without the runs that are over: what is left of a stack is a smaller one."""
        results = read_results(Path(self.folder), self.number)
        over = {id for id, line in results.items() if line["over"]}
        return [left for job in self._jobs() for left in job.only(set(job.ids) - over)]

    def _jobs(self) -> list[Job]:
        return read_jobs(Path(self.folder), self.number)

    def _is_cancelled(self) -> bool:
        return (Path(self.folder) / "leave.json").exists()

    def _steps(self) -> int:
        """How far the runs of this task have come, all together."""
        folders = [open_root(job.root, refresh=False) / id for job in self._jobs() for id in job.ids]
        return sum(RunFolder(folder).status.step for folder in folders if (folder / "status.json").exists())


def _pause(leaves: Callable[[], bool]) -> bool:
    """Wait before runs that others hold are tried again; whether to leave, which ends the wait."""
    end = time.monotonic() + BUSY_SECONDS
    while not leaves() and time.monotonic() < end:
        time.sleep(0.2)
    return leaves()
