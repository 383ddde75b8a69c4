"""What carries out the runs of a plan. An engine schedules processes; what a run is, and whether it is done, is told by
its folder alone, so every engine may lose workers, be started twice, or be replaced by another one halfway."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Wanted:
    """One run of a job. id: as planned; a worker whose code or presets resolve to another id refuses the run."""

    id: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """What one process is to carry out at a time: a run, or several that are trained together as a stack.

    Plain values: it travels as JSON (`dataclasses.asdict`, and `read` for the way back). study: a built-in study's
    name, or the absolute path of a user's file. root: a folder, or an object-storage URL.
    """

    runs: tuple[Wanted, ...]
    study: str
    root: str

    @property
    def ids(self) -> list[str]:
        return [run.id for run in self.runs]

    def only(self, ids: Collection[str]) -> list[Job]:
        """The job with those of its runs that are among `ids`: one job, or none."""
        runs = tuple(run for run in self.runs if run.id in ids)
        return [replace(self, runs=runs)] if runs else []

    @staticmethod
    def read(document: Mapping[str, Any]) -> Job:
        runs = tuple(Wanted(run["id"], tuple(run["overrides"])) for run in document["runs"])
        return Job(runs, document["study"], document["root"])


State = Literal["finished", "interrupted", "failed", "refused", "busy", "lost"]


@dataclass(frozen=True)
class Result:
    """How a run ended here. finished, interrupted and failed are the run's own states; `refused`: the request cannot be
    carried out (nothing was made); `busy`: another live process holds the run; `lost`: the worker died without a word,
    and the run can be resumed."""

    id: str
    state: State
    reason: str = ""


Report = Callable[[Result], None]


class Engine(Protocol):
    """An existing system that starts processes: a pool on this machine, Slurm, Ray."""

    def carry_out(self, jobs: Sequence[Job], report: Report, stop: Callable[[], bool]) -> None:
        """Carry out `jobs` and call `report`, from the calling thread, exactly once for each run that was begun.

        Returns when nothing is left to do. `stop` is polled about once a second: once it is true no further job is
        begun, running ones are asked to save and are reported as interrupted, jobs that were not begun are not
        reported. Raises `EnvironmentFault` if the system itself cannot be reached, before or after some reports.
        """
        ...
