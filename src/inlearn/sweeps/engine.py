"""What carries out the runs of a plan. An engine schedules processes; what a run is, and whether it is done, is told by
its folder alone, so every engine may lose workers, be started twice, or be replaced by another one halfway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Job:
    """One run that is to be carried out somewhere. Plain values: it travels as JSON.

    id: the run's id as planned; a worker whose code or presets resolve to another id refuses the job.
    study: a built-in study's name, or the absolute path of a user's file. root: a folder, or an object-storage URL.
    """

    id: str
    study: str
    overrides: tuple[str, ...]
    root: str


State = Literal["finished", "interrupted", "failed", "refused", "busy", "lost"]


@dataclass(frozen=True)
class Result:
    """How a job ended here. finished, interrupted and failed are the run's own states; `refused`: the request cannot be
    carried out (nothing was made); `busy`: another live process holds the run; `lost`: the worker died without a word,
    and the run can be resumed."""

    id: str
    state: State
    reason: str = ""


Report = Callable[[Result], None]


class Engine(Protocol):
    """An existing system that starts processes: a pool on this machine, Slurm, Ray."""

    def carry_out(self, jobs: Sequence[Job], report: Report, stop: Callable[[], bool]) -> None:
        """Carry out `jobs` and call `report`, from the calling thread, exactly once for each that was begun.

        Returns when nothing is left to do. `stop` is polled about once a second: once it is true no further job is
        begun, running ones are asked to save and are reported as interrupted, jobs that were not begun are not
        reported. Raises `EnvironmentFault` if the system itself cannot be reached, before or after some reports.
        """
        ...
