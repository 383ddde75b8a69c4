"""Runs in object storage as seen by a machine that did not make them: parents, waiting, watching, and its own files."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from inlearn.cli import status as status_module
from inlearn.lab.discovery import study
from inlearn.lab.request import request
from inlearn.lab.session import resume, start
from inlearn.runs.folder import RunFolder, list_runs
from inlearn.runs.remote_pull import refresh_runs
from inlearn.runs.remote_root import open_root
from inlearn.sweeps.engine import Job, Wanted
from inlearn.sweeps.folder import open_plan, store_plan
from inlearn.sweeps.plan import Plan, with_overrides
from inlearn.sweeps.planned import planned
from inlearn.sweeps.standing import standings
from inlearn.sweeps.worker import carry_out


def quiet(text: str) -> None:
    pass


def machine(monkeypatch, tmp_path: Path, name: str, bucket: str, refresh: bool = True) -> Path:
    """The root of `bucket` as machine `name` has it."""
    monkeypatch.setenv("INLEARN_CACHE", str(tmp_path / name))
    return open_root(bucket, refresh)


def job(id: str, overrides: tuple[str, ...], bucket: str) -> Job:
    return Job((Wanted(id, overrides),), "regression", bucket)


@pytest.mark.parametrize("which", ["{id}@30", "base@last", "{short}@best"])
def test_a_worker_on_a_fresh_machine_fetches_the_parent_of_its_run(bucket, tiny, tmp_path, monkeypatch, which):
    here = machine(monkeypatch, tmp_path, "here", bucket)
    parent = start("regression", [*tiny, "name=base", "record.best=train/loss"], here, quiet)
    reference = which.format(id=parent.id, short=parent.id[:6])
    overrides = (*tiny, f"start={reference}")
    asked = request(study("regression"), overrides, here)
    there = machine(monkeypatch, tmp_path, "there", bucket, refresh=False)
    assert list_runs(there) == []
    (result,) = carry_out(job(asked.id, overrides, bucket))
    assert result.state == "finished", result
    assert asked.parent in json.loads((there / asked.id / "carried.json").read_text())["parent"]
    fetched = [int(path.parent.name) for path in (there / parent.id).glob("checkpoints/*/manifest.json")]
    assert fetched == [int(asked.parent.partition("@")[2])], "of the parent's checkpoints, the one that is needed"


@pytest.mark.parametrize("which", ["last", "60"])
def test_a_parent_that_went_on_elsewhere_is_looked_at_again(bucket, tiny, tmp_path, monkeypatch, which):
    here = machine(monkeypatch, tmp_path, "here", bucket)
    parent = start("regression", [*tiny, "training.until=30"], here, quiet)
    machine(monkeypatch, tmp_path, "there", bucket)  # knows the parent up to step 30
    resume(parent.id, ["training.until=none"], here, quiet)
    overrides = (*tiny, f"start={parent.id}@{which}")
    (result,) = carry_out(job(request(study("regression"), overrides, here).id, overrides, bucket))
    assert result.state == "finished", result


def test_two_workers_that_need_one_parent_at_once_both_have_it(bucket, proxy, tiny, tmp_path, monkeypatch):
    here = machine(monkeypatch, tmp_path, "here", bucket)
    parent = start("regression", tiny, here, quiet)
    there = machine(monkeypatch, tmp_path, "there", bucket, refresh=False)
    slow = threading.Event()

    def fault(method: str, path: str, before: int) -> None:
        if method == "GET" and "study.json" in path:
            slow.wait(0.4)  # the first is in the middle of it

    proxy.faults.append(fault)
    seen: list[bool] = []

    def look() -> None:
        refresh_runs(there, [parent.id])
        seen.append((there / parent.id / "config.json").exists())

    both = [threading.Thread(target=look) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert seen == [True, True]


def test_looking_at_some_runs_asks_for_no_others(bucket, proxy, tiny, tmp_path, monkeypatch):
    here = machine(monkeypatch, tmp_path, "here", bucket)
    one, two = (start("regression", [*tiny, f"seed={seed}"], here, quiet) for seed in (1, 2))
    there = machine(monkeypatch, tmp_path, "there", bucket, refresh=False)
    proxy.requests.clear()
    refresh_runs(there, [one.id, "f" * 12])
    assert [run.id for run in list_runs(there)] == [one.id] and RunFolder(there / one.id).status.step == 60
    assert not any(two.id in path for _, path in proxy.requests)
    assert sum("list-type" in path for _, path in proxy.requests) == 2


def test_watching_a_plan_sees_what_other_machines_do(bucket, proxy, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(status_module, "REFRESH_SECONDS", 0.1)
    plan = with_overrides(Plan(study="regression", name="far"), [*tiny, "seed=range(2)"])
    here = machine(monkeypatch, tmp_path, "here", bucket)
    store_plan(here, plan, planned(plan, here)[0])
    start("regression", planned(plan, here)[0][0].overrides, here, quiet)
    there = open_plan(machine(monkeypatch, tmp_path, "there", bucket), "far")
    assert [s.state for s in standings(there.root, there.runs)] == ["finished", "planned"]
    proxy.faults.append(lambda method, path, before: 403)
    watcher = threading.Thread(target=status_module._watch, args=(there, False), daemon=True)
    watcher.start()
    while not proxy.struck:  # an outage does not end it
        threading.Event().wait(0.05)
    proxy.faults.clear()
    start("regression", there.runs[1].overrides, here, quiet)
    watcher.join(60.0)
    assert not watcher.is_alive() and "2 finished" in capsys.readouterr().out
    assert [s.done for s in standings(there.root, there.runs)] == [True, True]


def test_a_run_of_the_cache_is_no_root(bucket, tiny, tmp_path):
    run = start("regression", tiny, open_root(bucket), quiet)
    root = open_root(run.path)
    assert root == run.path and list_runs(root) == []
