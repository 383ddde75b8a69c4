"""What runs inside one task of a Slurm array: its runs one after the other, and a requeue when Slurm wants the node.

A submission's folder holds, for task n:

<n>.json          the jobs, as they were submitted
<n>.results.jsonl one line when a run begins here, and one when it ends
leave.json        there once the submission is cancelled: nothing begins, and nothing is requeued
*_<n>_0_log.out   what the task printed; .err beside it
*.pkl             submitit's own: which callable to start. Nothing but submitit reads them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlearn.core.files import read_json, write_json
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import MetricsWriter, read_lines
from inlearn.runs.remote_root import open_root
from inlearn.sweeps.engine import Job
from inlearn.sweeps.engines.slurm_commands import state_of

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

    from inlearn.lab.interrupts import Interrupts

MOST_IDLE = 10  # starts in a row without a step trained: such a task would be requeued for ever
BEGUN = "begun"


def write_jobs(folder: Path, number: int, jobs: Sequence[Job]) -> None:
    write_json(folder / f"{number}.json", [asdict(job) for job in jobs])


def read_jobs(folder: Path, number: int) -> list[Job]:
    return [Job(**job | {"overrides": tuple(job["overrides"])}) for job in read_json(folder / f"{number}.json")]


def read_results(folder: Path, number: int) -> dict[str, dict[str, Any]]:
    """The last line of each run that began in the task, by id: `state` (also "begun"), `reason`, and `over`: whether
    the task is done with it. A run that was interrupted by a signal is taken up when the task starts again."""
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

        lines = MetricsWriter(Path(self.folder) / f"{self.number}.results.jsonl")
        for job in self._left():
            if interrupted() or self._is_cancelled():
                break
            lines.write({"id": job.id, "state": BEGUN, "reason": "", "over": False})
            lines.flush()
            result = carry_out(job)
            over = result.state != "interrupted" or not interrupted()  # this run alone may have been asked to leave
            lines.write(asdict(result) | {"over": over})
            lines.flush(sync=True)
        lines.close()

    def _goes_on(self, interrupted: Interrupts) -> bool:
        """Whether to ask Slurm for another start. SIGUSR2: the time is up, or a job of higher priority waits."""
        if self._is_cancelled():
            return False
        # SIGTERM alone: after scancel and `scontrol requeue` the state tells that Slurm has decided; within the grace
        # time of a preemption the job still counts as running, and one that ends by itself then is not requeued.
        return signal.SIGUSR2 in interrupted.numbers or state_of(os.environ["SLURM_JOB_ID"]) == "RUNNING"

    def _left(self) -> list[Job]:
        results = read_results(Path(self.folder), self.number)
        return [job for job in self._jobs() if not results.get(job.id, {}).get("over")]

    def _jobs(self) -> list[Job]:
        return read_jobs(Path(self.folder), self.number)

    def _is_cancelled(self) -> bool:
        return (Path(self.folder) / "leave.json").exists()

    def _steps(self) -> int:
        """How far the runs of this task have come, all together."""
        folders = [open_root(job.root, refresh=False) / job.id for job in self._jobs()]
        return sum(RunFolder(folder).status.step for folder in folders if (folder / "status.json").exists())
