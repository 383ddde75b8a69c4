"""What a task of an array does, called without Slurm: a run that is held by a process of another machine."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from inlearn.lab.session import start
from inlearn.runs import lease
from inlearn.runs.lines import read_lines
from inlearn.sweeps.engine import Job
from inlearn.sweeps.engines import slurm_task
from inlearn.sweeps.engines.slurm_task import Task, ask_to_leave, read_results, write_jobs


@pytest.fixture
def task(tiny, tmp_path, monkeypatch) -> Task:
    """Two runs, of which the first was begun by a node that then failed, a moment ago."""
    monkeypatch.setattr(slurm_task, "BUSY_SECONDS", 0.1)
    jobs = []
    for seed in range(2):
        asked = (*tiny, f"seed={seed}")
        begun = start("regression", [*asked, "training.until=20"], tmp_path / "runs", lambda text: None)
        jobs.append(Job(begun.id, "regression", asked, str(tmp_path / "runs")))
    write_jobs(tmp_path, 0, jobs)
    with lease.Lease(held(tmp_path, jobs[0]).parent):
        content = json.loads(held(tmp_path, jobs[0]).read_text())
    held(tmp_path, jobs[0]).write_text(json.dumps(content | {"host": "elsewhere", "pid": 1}))
    return Task(str(tmp_path), 0)


def held(folder: Path, job: Job) -> Path:
    return folder / "runs" / job.id / "lease.json"


def ended(folder: Path) -> list[tuple[str, str, bool]]:
    """(run, state, over), in the order in which they ended."""
    lines = read_lines(folder / "0.results.jsonl")
    return [(line["id"], line["state"], line["over"]) for line in lines if line["state"] != "begun"]


def test_the_lease_of_a_failed_node_is_waited_for(task, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE_SECONDS", 4.0)
    task()
    first, second = (job.id for job in task._jobs())
    assert ended(tmp_path)[:2] == [(first, "busy", False), (second, "finished", True)]
    assert ended(tmp_path)[-1] == (first, "finished", True)


def test_a_run_that_a_living_process_trains_is_left_to_it(task, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE_SECONDS", 3.0)
    first, second = task._jobs()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(0.1):
            os.utime(held(tmp_path, first))

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        task()
    finally:
        done.set()
        beating.join()
    assert read_results(tmp_path, 0)[second.id]["state"] == "finished"
    assert ended(tmp_path)[-1] == (first.id, "busy", True) and held(tmp_path, first).exists()


@pytest.mark.parametrize("how", ["signal", "cancel"])
def test_a_task_that_waits_leaves_when_it_is_asked_to(task, tmp_path, monkeypatch, how):
    """At the end of its time it asks for a requeue, with the run still to do; a cancelled one does not."""
    again: list[int] = []
    monkeypatch.setattr(slurm_task, "BUSY_SECONDS", 1000.0)
    before = signal.signal(signal.SIGUSR2, lambda number, frame: again.append(number))
    try:

        def ask() -> None:
            while len(ended(tmp_path)) < 2 if (tmp_path / "0.results.jsonl").exists() else True:
                time.sleep(0.05)
            ask_to_leave(tmp_path) if how == "cancel" else os.kill(os.getpid(), signal.SIGUSR2)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        task()
        asking.join()
    finally:
        signal.signal(signal.SIGUSR2, before)
    first, _ = task._jobs()
    assert ended(tmp_path)[0] == (first.id, "busy", False) and len(ended(tmp_path)) == 2
    assert task._left() == [first] and len(again) == (how == "signal")
