"""What a plan has handed to Slurm: `jobs.json`, which of it Slurm still has, and how it is cancelled.

Jobs are found by the name they were submitted under, unique to a submission, so that one is found even where the
process that submitted it died before it could write down the number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlearn.core.errors import UserError
from inlearn.core.files import read_json, write_json
from inlearn.runs.locking import exclusive
from inlearn.sweeps.engines import slurm_commands as slurm
from inlearn.sweeps.engines.slurm_task import ask_to_leave, read_jobs, read_results


@dataclass
class Watched:
    """One task of an array that has runs we wait for. `gone`: it had ended when Slurm was asked last."""

    job_id: str
    folder: Path
    number: int
    runs: list[str]
    gone: bool = False


def entries(folder: Path) -> list[dict[str, Any]]:
    """What jobs.json of a plan's `slurm` folder holds: one mapping a submission, in the order of submission."""
    path = folder / "jobs.json"
    return read_json(path) if path.exists() else []


def enter(folder: Path, entry: Mapping[str, Any]) -> None:
    """Add or replace a submission's entry."""
    others = [other for other in entries(folder) if other["folder"] != entry["folder"]]
    write_json(folder / "jobs.json", [*others, entry])


def strike(folder: Path, submission: str) -> None:
    if (folder / "jobs.json").exists():
        write_json(folder / "jobs.json", [other for other in entries(folder) if other["folder"] != submission])


def job_name(folder: Path, submission: str) -> str:
    return f"{folder.parent.name}-{submission}"


def alive(folder: Path, queue: Mapping[str, slurm.Queued]) -> dict[str, tuple[Path, int]]:
    """Job ids of the plan's tasks that Slurm still has, each with its submission's folder and its number there."""
    names = {job_name(folder, entry["folder"]): folder / entry["folder"] for entry in entries(folder)}
    return {
        id: (names[queued.name], int(id.partition("_")[2] or 0))
        for id, queued in queue.items()
        if queued.name in names and queued.alive
    }


def adopted(folder: Path, queue: Mapping[str, slurm.Queued], wanted: set[str]) -> list[Watched]:
    """Tasks of earlier submissions that are still to carry out some of the wanted runs."""
    watched, taken = [], set()
    for id, (submission, number) in alive(folder, queue).items():
        if (submission / "leave.json").exists():
            continue
        results = read_results(submission, number)
        given = [run for job in read_jobs(submission, number) for run in job.ids]
        runs = [run for run in given if run in wanted - taken and not results.get(run, {}).get("over")]
        if runs:
            taken |= set(runs)
            watched.append(Watched(id, submission, number, runs))
    return watched


def cancel(plan_folder: Path) -> int:
    """Tell every task of the plan that is queued or running to save and leave; how many these are."""
    folder = plan_folder / "slurm"
    with exclusive(folder / ".lock"):
        for entry in entries(folder):
            ask_to_leave(folder / entry["folder"])
        slurm.installed()
        queue = slurm.queue()
        left = alive(folder, queue)
        for array in sorted({id.split("_")[0] for id in left}):
            slurm.ask("scancel", "--quiet", "--state=PENDING", array)
        running = [f"{id}.0" for id in left if queue[id].state == "RUNNING"]
        if running:
            # A signal alone: a plain scancel kills after half a minute, whether a run has saved or not. To the steps:
            # to a job, scancel repeats it for as long as the job takes to end. One that has no step yet is refused,
            # and finds that it should leave as soon as it starts.
            with contextlib.suppress(UserError):
                slurm.ask("scancel", "--quiet", "--signal=TERM", *running)
    return len(left)
