"""What a task of an array does, called without Slurm: a run that is held by a process of another machine."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from inlearn.lab.discovery import study
from inlearn.lab.request import request
from inlearn.lab.session import start
from inlearn.runs import lease
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import read_lines
from inlearn.sweeps.engine import Job, Wanted
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
        jobs.append(Job((Wanted(begun.id, asked),), "regression", str(tmp_path / "runs")))
    write_jobs(tmp_path, 0, jobs)
    with lease.Lease(held(tmp_path, jobs[0]).parent):
        content = json.loads(held(tmp_path, jobs[0]).read_text())
    held(tmp_path, jobs[0]).write_text(json.dumps(content | {"host": "elsewhere", "pid": 1}))
    return Task(str(tmp_path), 0)


def held(folder: Path, job: Job) -> Path:
    return folder / "runs" / job.ids[0] / "lease.json"


def ended(folder: Path) -> list[tuple[str, str, bool]]:
    """(run, state, over), in the order in which they ended."""
    lines = read_lines(folder / "0.results.jsonl")
    return [(line["id"], line["state"], line["over"]) for line in lines if line["state"] != "begun"]


def test_the_lease_of_a_failed_node_is_waited_for(task, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE_SECONDS", 4.0)
    task()
    first, second = (job.ids[0] for job in task._jobs())
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
    assert read_results(tmp_path, 0)[second.ids[0]]["state"] == "finished"
    assert ended(tmp_path)[-1] == (first.ids[0], "busy", True) and held(tmp_path, first).exists()


def test_what_is_left_of_a_stack_is_a_smaller_stack(tiny, tmp_path):
    """After a requeue one member is over; a live process holds another for as long as the task lives."""
    asked = [(*tiny, f"seed={seed}") for seed in range(4)]
    stack = [Wanted(request(study("regression"), words, tmp_path / "runs").id, words) for words in asked]
    job = Job(tuple(stack), "regression", str(tmp_path / "runs"))
    write_jobs(tmp_path, 0, [job])
    first, *rest = job.ids
    lines = [{"id": id, "state": "begun", "reason": "", "over": False} for id in job.ids]
    lines += [{"id": id, "state": "interrupted", "reason": "", "over": id == first} for id in job.ids]
    (tmp_path / "0.results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = Task(str(tmp_path), 0)
    assert [left.ids for left in task._left()] == [rest]
    task()
    assert ended(tmp_path)[4:] == [(id, "finished", True) for id in rest] and task._left() == []
    segments = [RunFolder(tmp_path / "runs" / id).segments for id in rest]
    assert [[(s["form"], s["members"]) for s in own] for own in segments] == [[("stacked", 3)]] * 3
    assert not (tmp_path / "runs" / first).exists()


def test_members_of_a_stack_that_others_hold_are_tried_again_without_the_rest(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_task, "BUSY_SECONDS", 0.1)
    asked = [(*tiny, f"seed={seed}", "execution.engine=stacked") for seed in range(3)]
    begun = start("regression", [*asked[0], "training.until=20"], tmp_path / "runs", lambda text: None)
    stack = [Wanted(request(study("regression"), words, tmp_path / "runs").id, words) for words in asked]
    write_jobs(tmp_path, 0, [Job(tuple(stack), "regression", str(tmp_path / "runs"))])
    done, holding = threading.Event(), threading.Event()

    def hold() -> None:
        with lease.Lease(begun.path):
            holding.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()

    def let_go() -> None:
        while len(ended(tmp_path)) < 4 if (tmp_path / "0.results.jsonl").exists() else True:
            time.sleep(0.05)
        done.set()

    letting = threading.Thread(target=let_go)
    letting.start()
    Task(str(tmp_path), 0)()
    letting.join()
    holder.join()
    ids = [one.id for one in stack]
    assert ended(tmp_path)[:3] == [(ids[0], "busy", False), (ids[1], "finished", True), (ids[2], "finished", True)]
    assert ended(tmp_path)[3] == (ids[0], "busy", False) and ended(tmp_path)[-1] == (ids[0], "finished", True)


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
    assert ended(tmp_path)[0] == (first.ids[0], "busy", False) and len(ended(tmp_path)) == 2
    assert task._left() == [first] and len(again) == (how == "signal")
