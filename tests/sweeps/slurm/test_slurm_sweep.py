"""Sweeps on a real Slurm (conftest.py): preempted, requeued, killed, cancelled, watched by more than one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from inlearn.runs.folder import RunFolder

# Long enough to be caught in the middle on a fast machine, and saved often.
LONG = (
    "training.steps=2000",
    'record.checkpoints={"kind":"every","steps":50}',
    'record.evaluations={"kind":"every","steps":1000}',
)
SLURM = ("engine=slurm", "engine.memory=400M", "engine.time=5")


@pytest.fixture
def inlearn():
    """Starts our command line in a process of its own, which does not outlive the test."""
    started = []

    def start(*words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "inlearn.cli.main", *words]
        pipe = subprocess.PIPE
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=one_thread))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen, code: int = 0, seconds: float = 300.0) -> str:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, out + err
    return out + err


@pytest.fixture
def words(tiny):
    """The beginning of a sweep's overrides: `tiny`, without what `LONG` says."""
    return [word for word in tiny if not word.startswith(("training.steps", "record.checkpoints", "record.eval"))]


def standing(root: Path) -> dict[str, str]:
    return {path.parent.name: RunFolder(path.parent).status.state for path in root.glob("*/config.json")}


def runs_of(root: Path, plan: str) -> dict[int, str]:
    """Run ids by the seed of the plan's axis."""
    lines = (root / ".plans" / plan / "runs.jsonl").read_text().splitlines()
    return {json.loads(line)["axes"]["seed"]: json.loads(line)["id"] for line in lines}


def task_of(root: Path, plan: str, run: str) -> str:
    """The Slurm job id of the latest task that was given `run`."""
    slurm = root / ".plans" / plan / "slurm"
    found = None
    for entry in json.loads((slurm / "jobs.json").read_text()):
        for number in range(entry["tasks"]):
            jobs = json.loads((slurm / entry["folder"] / f"{number}.json").read_text())
            if run in [one["id"] for job in jobs for one in job["runs"]]:
                found = f"{entry['array']}_{number}" if entry["tasks"] > 1 else entry["array"]
    return found


def submissions(root: Path, plan: str, sweep: subprocess.Popen | None = None) -> list[dict]:
    """What `sweep`, if it lives, and earlier ones handed to Slurm."""
    if sweep is not None and sweep.poll() is not None:
        raise AssertionError(f"the sweep has ended: {sweep.communicate()}")
    path = root / ".plans" / plan / "slurm/jobs.json"
    return [entry for entry in json.loads(path.read_text()) if entry["array"]] if path.exists() else []


def saved(root: Path, run: str) -> bool:
    """Whether the run is under way and has saved since its first step."""
    steps = [path.parent.name for path in (root / run / "checkpoints").glob("[0-9]*/manifest.json")]
    return (root / run / "lease.json").exists() and any(map(int, steps))


def content(folder: Path) -> dict[str, bytes]:
    """What a run is: its metrics, and the weights and moments at its end."""
    last = sorted((folder / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))[-1]
    return {path.name: path.read_bytes() for path in [folder / "metrics.jsonl", *last.glob("*.safetensors")]}


def test_a_sweep_that_is_preempted_requeued_and_killed_ends_as_on_the_local_engine(
    node, inlearn, words, tmp_path, wait_for
):
    there, here = tmp_path / "slurm", tmp_path / "local"
    plan = ["sweep", "regression", *words, *LONG, "seed=range(3)", "--name", "hurt"]
    sweep = inlearn(*plan, *SLURM, "--runs", str(there))
    wait_for(lambda: submissions(there, "hurt", sweep), 120, "the submission")
    seeds = runs_of(there, "hurt")
    wait_for(lambda: saved(there, seeds[0]) and saved(there, seeds[1]), 120, "two runs under way")
    signalled, requeued = task_of(there, "hurt", seeds[0]), task_of(there, "hurt", seeds[1])
    # What Slurm sends ahead of a time limit. To the step: to a job, scancel repeats it until the job has ended.
    node.run("scancel", "--signal=USR2", f"{signalled}.0")
    node.run("scontrol", "requeue", requeued)
    wait_for(lambda: saved(there, seeds[2]), 120, "a third run under way")
    os.kill(json.loads((there / seeds[2] / "lease.json").read_text())["pid"], signal.SIGKILL)
    finish(sweep)

    assert set(standing(there).values()) == {"finished"}
    log = [json.loads(line) for line in (there / ".plans/hurt/log.jsonl").read_text().splitlines()]
    assert Counter(line["id"] for line in log if line["state"] == "finished") == Counter(seeds.values())
    # The killed run was lost once and submitted again; Slurm itself brought the other two back.
    assert [line["id"] for line in log if line["state"] == "lost"] == [seeds[2]]
    assert task_of(there, "hurt", seeds[0]) == signalled and task_of(there, "hurt", seeds[1]) == requeued
    for seed, starts in {0: 2, 1: 2, 2: 2}.items():
        segments = RunFolder(there / seeds[seed]).segments
        assert len(segments) == starts, seed
        assert all(segment["from_step"] > 0 for segment in segments[1:])
        assert {segment["engine"] for segment in segments} == {"slurm"}
    # The signal saves at the next step and not at the next checkpoint of the schedule.
    first, second = RunFolder(there / seeds[0]).segments
    assert second["from_step"] == first["to_step"]

    finish(inlearn(*plan, "engine.stack=none", "--runs", str(here)))
    for seed in seeds:
        assert content(there / seeds[seed]) == content(here / seeds[seed])


@pytest.mark.slow
def test_a_stack_is_saved_and_comes_back_whole(node, inlearn, words, tmp_path, wait_for):
    there, here = tmp_path / "slurm", tmp_path / "local"
    plan = ["sweep", "regression", *words, *LONG, "seed=range(4)", "engine.stack=2", "--name", "stacks"]
    sweep = inlearn(*plan, *SLURM, "--runs", str(there))
    wait_for(lambda: submissions(there, "stacks", sweep), 120, "the submission")
    seeds = runs_of(there, "stacks")
    wait_for(lambda: all(saved(there, id) for id in seeds.values()), 120, "two stacks under way")
    signalled = task_of(there, "stacks", seeds[0])
    assert signalled == task_of(there, "stacks", seeds[1]) != task_of(there, "stacks", seeds[2])
    node.run("scancel", "--signal=USR2", f"{signalled}.0")
    finish(sweep)
    assert set(standing(there).values()) == {"finished"}
    (entry,) = submissions(there, "stacks")
    assert (entry["tasks"], entry["runs"]) == (2, 4)
    for seed, starts in {0: 2, 1: 2, 2: 1, 3: 1}.items():
        segments = RunFolder(there / seeds[seed]).segments
        assert [(s["form"], s["members"], s["engine"]) for s in segments] == [("stacked", 2, "slurm")] * starts
        assert all(after["from_step"] == before["to_step"] for before, after in pairwise(segments))
    finish(inlearn(*plan, "--runs", str(here)))
    for id in seeds.values():
        assert content(there / id) == content(here / id)


def test_jobs_go_on_without_us_are_found_again_and_cancelled(node, inlearn, words, tmp_path, wait_for):
    plan = ["sweep", "regression", *words, "training.steps=19000", "seed=range(3)", "--name", "left"]
    plan += [*SLURM, "engine.jobs=2", "engine.stack=none", "--runs", str(tmp_path)]
    assert "inlearn cancel left" in finish(inlearn(*plan, "engine.detach=true"))
    (first,) = submissions(tmp_path, "left")
    assert (first["tasks"], first["runs"]) == (2, 3)
    seeds = runs_of(tmp_path, "left")

    watching = inlearn(*plan)
    wait_for(lambda: saved(tmp_path, seeds[0]) and saved(tmp_path, seeds[1]), 120, "two runs under way")
    while "3 runs are with Slurm already" not in watching.stderr.readline():  # until it says so, it is only starting
        assert watching.poll() is None
    watching.send_signal(signal.SIGINT)
    assert "the jobs go on" in finish(watching)
    assert submissions(tmp_path, "left") == [first] and len(node.queue()) == 2

    said = finish(inlearn("cancel", "left", "--runs", str(tmp_path)))
    assert "2 Slurm jobs" in said
    wait_for(lambda: not node.queue(), 120, "the end of the tasks")
    # The third run waited behind the first in its task.
    assert standing(tmp_path) == {seeds[0]: "interrupted", seeds[1]: "interrupted"}
    assert all(RunFolder(tmp_path / seeds[seed]).segments[-1]["to_step"] > 0 for seed in (0, 1))

    finish(inlearn(*plan, "training.until=300"))  # the same runs, with an earlier end
    assert set(standing(tmp_path).values()) == {"finished"} and len(submissions(tmp_path, "left")) == 2


def test_a_preempted_run_comes_back_with_the_study_as_it_was_submitted(node, inlearn, lookup, tmp_path, wait_for):
    study = tmp_path / "table.py"
    study.write_text(Path(lookup).read_text())
    small = ["model.width=16", "model.layers=1", "model.heads=2", "training.batch=16"]
    plan = ["sweep", str(study), *small, *LONG, "seed=7", "--name", "own", "--runs", str(tmp_path / "runs")]
    sweep = inlearn(*plan, *SLURM)
    wait_for(lambda: submissions(tmp_path / "runs", "own", sweep), 120, "the submission")
    (line,) = (tmp_path / "runs/.plans/own/runs.jsonl").read_text().splitlines()
    run = json.loads(line)["id"]
    wait_for(lambda: saved(tmp_path / "runs", run), 120, "the run under way")
    study.write_text("raise RuntimeError('half edited')")
    node.run("sbatch", "--partition=urgent", "--ntasks=2", "--mem=10M", "--output=/dev/null", "--wrap", "sleep 1")
    finish(sweep)
    folder = RunFolder(tmp_path / "runs" / run)
    first, *more = folder.segments
    assert folder.status.state == "finished" and more and more[0]["from_step"] == first["to_step"]
    assert len(submissions(tmp_path / "runs", "own")) == 1
    (entry,) = submissions(tmp_path / "runs", "own")
    slurm = tmp_path / "runs/.plans/own/slurm"
    assert "torch==" in (slurm / entry["environment"]).read_text()
    assert str(slurm / entry["code"] / "inlearn") in next((slurm / entry["folder"]).glob("*_log.out")).read_text()


@pytest.mark.slow
def test_a_run_longer_than_its_time_limit_is_saved_requeued_and_resumed(node, inlearn, words, tmp_path):
    steps = "training.steps=60000"  # over a minute: Slurm looks at time limits twice a minute
    plan = ["sweep", "regression", *words, steps, "execution.step=eager", "--name", "long", "--runs", str(tmp_path)]
    finish(
        inlearn(*plan, "engine=slurm", "engine.memory=400M", "engine.time=2", "engine.signal_seconds=60"), seconds=500
    )
    ((run, state),) = standing(tmp_path).items()
    first, *more = RunFolder(tmp_path / run).segments
    assert state == "finished" and more and more[0]["from_step"] == first["to_step"] > 0
    assert len(submissions(tmp_path, "long")) == 1
