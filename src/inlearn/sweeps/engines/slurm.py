"""Runs as tasks of Slurm arrays, submitted through submitit. In `<plan folder>/slurm/`:

jobs.json             one entry a submission: array id, name, tasks, resources, code, environment, time
code-<hash>/          the code that its jobs run: first on their PYTHONPATH
environment-<hash>.txt  packages and versions when it was submitted
<submission>/         what its tasks were given, say and print (slurm_task.py)

Whoever carries out the plan only watches: the jobs go on without it, and one that is started again finds them by
jobs.json and squeue rather than submit them a second time. A task tells in its folder how each run ended; Slurm's word
counts only for whether a task will ever say more. submitit writes pickles that name the callable to start; they are
its own plumbing, and nothing else reads them.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.core.files import machine_faults
from inlearn.runs.locking import exclusive
from inlearn.sweeps.engine import Job, Report, Result
from inlearn.sweeps.engines import slurm_commands as slurm
from inlearn.sweeps.engines.config import SlurmConfig
from inlearn.sweeps.engines.slurm_jobs import Watched, adopted, cancel, enter, job_name, strike
from inlearn.sweeps.engines.slurm_resources import Resources, resources
from inlearn.sweeps.engines.slurm_snapshot import environment, snapshot
from inlearn.sweeps.engines.slurm_task import BEGUN, Task, read_results, write_jobs
from inlearn.sweeps.folder import PlanFolder

SLOWEST_LOOK = 15.0  # seconds between two questions to a controller that serves the whole cluster
PATIENCE_SECONDS = 600.0  # a controller is restarted now and then, and the jobs do not mind
REQUEUES = 1_000_000  # submitit counts time-outs; ours end when a run is done, or when Task makes no step


class SlurmEngine:
    """`Engine` over Slurm arrays.

    Where the sweep is cancelled, or stops at a failure, the tasks are told to save and leave. After Ctrl-C, and with
    `detach`, they go on: nothing more is reported then.
    """

    def __init__(self, config: SlurmConfig, plan_folder: Path) -> None:
        self.config, self.plan = config, PlanFolder(plan_folder.resolve())
        self.folder = self.plan.path / "slurm"

    def carry_out(self, jobs: Sequence[Job], report: Report, stop: Callable[[], bool]) -> None:
        slurm.installed()
        began = time.time()
        queue = slurm.queue()
        with machine_faults(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / ".lock"):  # two coordinators of one plan submit a run once
            watched = adopted(self.folder, queue, {id for job in jobs for id in job.ids})
            if known := {id for task in watched for id in task.runs}:
                _say(f"{len(known)} runs are with Slurm already")
            if new := [rest for job in jobs for rest in job.only(set(job.ids) - known)]:
                watched += self._submit(new)
        if self.config.detach:
            _say(self._farewell())
            return
        self._watch(watched, report, stop, began)

    def _farewell(self) -> str:
        name = self.plan.name
        return f"the jobs go on in Slurm; `inlearn status {name}` shows them, `inlearn cancel {name}` ends them"

    # ------------------------------------------------------------ submitting

    def _submit(self, jobs: Sequence[Job]) -> list[Watched]:
        try:
            from submitit import SlurmExecutor
        except ImportError:
            raise UserError("engine=slurm needs submitit: pip install 'inlearn[slurm]'") from None
        asked = resources(self.config, slurm.partitions(), _say)
        count = min(len(jobs), self.config.jobs or len(jobs), slurm.most_tasks())
        kept = snapshot(self.folder, sorted({job.study for job in jobs if job.study.endswith(".py")}))
        jobs = [_settled(job, kept.studies) for job in jobs]
        entry = {
            "folder": f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            "array": None,
            "tasks": count,
            "runs": sum(len(job.runs) for job in jobs),
            "code": kept.path.name,
            "environment": environment(self.folder).name,
            "resources": vars(asked),
            "submitted": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        # Neighbours in a plan are alike, long ones too, so a task takes every count-th.
        chunks = [jobs[number::count] for number in range(count)]
        folder = self.folder / entry["folder"]
        try:
            with machine_faults(folder):
                folder.mkdir()
            for number, chunk in enumerate(chunks):
                write_jobs(folder, number, chunk)
            enter(self.folder, entry)
            executor = SlurmExecutor(folder, max_num_timeout=REQUEUES)
            ids = _sbatch(executor, self._parameters(entry, asked, kept.path), folder, count)
        except BaseException as error:
            # Broken off, sbatch may have come through; the entry lets the jobs be found by their name.
            if isinstance(error, Exception):
                strike(self.folder, entry["folder"])
                shutil.rmtree(folder, ignore_errors=True)
            raise
        array = ids[0].split("_")[0]
        enter(self.folder, entry | {"array": array})
        _say(f"submitted {entry['runs']} runs as {count} tasks of Slurm job {array}; their output: {folder}")
        return [
            Watched(id, folder, number, [run for job in chunk for run in job.ids])
            for number, (id, chunk) in enumerate(zip(ids, chunks, strict=True))
        ]

    def _parameters(self, entry: Mapping[str, Any], asked: Resources, code: Path) -> dict[str, Any]:
        """What submitit writes into the batch script."""
        config = self.config
        given = {
            "partition": asked.partition,
            "time": asked.minutes,
            "mem": asked.memory,
            "cpus_per_task": config.cpus,
            "gpus_per_node": config.gpus or None,
            "constraint": config.constraint,
            "exclude": config.exclude,
            "account": config.account,
            "qos": config.qos,
        }
        return {key: value for key, value in given.items() if value is not None} | {
            "job_name": job_name(self.folder, entry["folder"]),
            "nodes": 1,
            "ntasks_per_node": 1,
            "signal_delay_s": config.signal_seconds,
            "array_parallelism": config.parallel or entry["tasks"],
            # Safe path: `python -m` would look for our package in the working directory first.
            "setup": [
                *config.setup,
                f'export PYTHONPATH="{code}${{PYTHONPATH:+:$PYTHONPATH}}"',
                "export PYTHONSAFEPATH=1",
                "export INLEARN_ENGINE=slurm",
            ],
            "additional_parameters": {"requeue": True},
        }

    # ------------------------------------------------------------ watching

    def _watch(self, watched: list[Watched], report: Report, stop: Callable[[], bool], began: float) -> None:
        leaving, failed = False, False

        def tell(result: Result) -> None:
            nonlocal failed
            failed = failed or result.state in ("failed", "refused")
            report(result)

        look = 0.0
        while watched:
            if not leaving and stop():
                if not self.plan.asked_to_leave(began) and not (failed and self.config.stop_on_failure):
                    _say(self._farewell())
                    return
                cancel(self.plan.path)
                leaving, look = True, 0.0
            if time.time() >= look:
                queue = _patiently(slurm.queue, stop)
                for task in watched:
                    _look(task, queue.get(task.job_id), tell, leaving)
                watched = [task for task in watched if task.runs]
                look = time.time() + min(SLOWEST_LOOK, 1 + (time.time() - began) / 20)
            if watched:
                time.sleep(0.5)


def _settled(job: Job, studies: Mapping[str, str]) -> Job:
    """The job with its study as the snapshot keeps it, and a root that means the same in any working directory."""
    root = job.root if "://" in job.root else str(Path(job.root).resolve())
    return replace(job, study=studies.get(job.study, job.study), root=root)


def _look(task: Watched, queued: slurm.Queued | None, tell: Report, leaving: bool) -> None:
    """Report what has ended in `task`, and what never will."""
    results = read_results(task.folder, task.number)
    for id in [id for id in task.runs if results.get(id, {}).get("over")]:
        task.runs.remove(id)
        tell(_result(results[id]))
    alive = queued is not None and queued.alive
    # Twice: a file server may show the last lines later than Slurm shows the end.
    was_gone, task.gone = task.gone, not alive
    if alive or not was_gone:
        return
    state = "is not known to Slurm any more" if queued is None else f"ended as {queued.state}"
    why = f"Slurm job {task.job_id} {state}; its output: {task.folder}/{task.job_id}_0_log.err"
    stopped = leaving or (queued is not None and queued.state == "CANCELLED")
    while task.runs:
        id = task.runs.pop(0)
        last = results.get(id)
        if last is not None and last["state"] != BEGUN and (stopped or (queued and queued.state == "COMPLETED")):
            tell(_result(last))
        elif stopped and (last is not None or not leaving):
            tell(Result(id, "interrupted", why))
        elif not stopped:
            tell(Result(id, "lost", why))


def _result(line: Mapping[str, Any]) -> Result:
    return Result(line["id"], line["state"], line["reason"])


def _patiently(question: Callable[[], dict[str, slurm.Queued]], stop: Callable[[], bool]) -> dict[str, slurm.Queued]:
    """Slurm's answer, waited for while its controller cannot be reached."""
    until, told = time.time() + PATIENCE_SECONDS, False
    while True:
        try:
            return question()
        except (EnvironmentFault, UserError) as error:  # nothing in the question is the user's
            if time.time() > until or stop():
                raise EnvironmentFault(f"{error}; the jobs go on without us: the same command watches again") from None
            if not told:
                _say(f"{error}; asking again for {PATIENCE_SECONDS / 60:.0f} minutes")
                told = True
            time.sleep(1.0)


def _sbatch(executor: Any, parameters: Mapping[str, Any], folder: Path, count: int) -> list[str]:
    """Submit tasks 0 to count - 1; their job ids. Slurm's refusal becomes a sentence."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor.update_parameters(**parameters)
    try:
        # submitit prints sbatch's complaint and raises it: once is enough.
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            submitted = [executor.submit(Task(str(folder), number)) for number in range(count)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise slurm.refusal("sbatch", str(error)) from None
    return [job.job_id for job in submitted]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
