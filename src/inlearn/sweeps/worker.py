"""What a worker of any engine does with one job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.lab.discovery import FoundStudy
from inlearn.lab.ended import ended_by
from inlearn.runs.remote_root import open_root, url_of
from inlearn.sweeps.engine import Job, Result, Wanted
from inlearn.sweeps.standing import begun_alone


def carry_out(job: Job) -> list[Result]:
    """Train the job's runs in this process, or go on with them: how each ended, in their order.

    Never raises for what a run, the user or the machine did. A traceback of an unforeseen error goes to stderr, which
    engines keep in a file.
    """
    try:
        return _carry_out(job)
    except (Exception, KeyboardInterrupt) as error:
        ended = ended_by("", error)  # once: it tells the traceback
        return [Result(id, ended.state, ended.reason) for id in job.ids]


def _carry_out(job: Job) -> list[Result]:
    from inlearn.lab import discovery

    root = open_root(job.root, refresh=False)
    found = discovery.study(job.study)
    if len(job.runs) == 1:
        _check(job.runs[0], found, job.root)
        return [_alone(job, job.runs[0], root)]
    results: dict[str, Result] = {}
    for run in job.runs:
        try:
            _check(run, found, job.root)
        except (UserError, EnvironmentFault) as error:  # the others are not to blame
            ended = ended_by(run.id, error)
            results[run.id] = Result(run.id, ended.state, ended.reason)
    left = [run for run in job.runs if run.id not in results]
    apart = [run for run in left if begun_alone(root / run.id)]  # by somebody else, since the stack was chosen
    if together := [run for run in left if run not in apart]:
        results |= {result.id: result for result in _together(job, together, root)}
    for run in apart:
        [results[run.id]] = carry_out(replace(job, runs=(run,)))
    return [results[id] for id in job.ids]


def _check(run: Wanted, found: FoundStudy, where: str) -> None:
    """Refuse a run that is another one here than where it was planned."""
    from inlearn.lab.request import request

    now = request(found, run.overrides, root := open_root(where, refresh=False)).id
    if now != run.id and url_of(root):  # start=RUN@last means another step since this machine looked
        now = request(found, run.overrides, open_root(where)).id
    if now != run.id:
        raise UserError(
            f"run {run.id} of the plan reads as run {now} here: the code, a preset or data changed since it was planned"
        )


def _alone(job: Job, run: Wanted, root: Path) -> Result:
    from inlearn.lab.session import start

    status = start(job.study, run.overrides, root, lambda text: None).folder.status
    return Result(run.id, status.state, status.reason)  # "finished" or "interrupted": others raise


def _together(job: Job, runs: list[Wanted], root: Path) -> list[Result]:
    from inlearn.lab.stacked import start_together

    ended = start_together(job.study, [run.overrides for run in runs], root, lambda text: None)
    return [Result(run.id, member.state, member.reason) for run, member in zip(runs, ended, strict=True)]
