"""Sweeps on this machine with real processes: killed, interrupted, cancelled, started twice, failing.

Runs go one by one here; test_stacks.py does the same to stacks of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_processes import wait_until

import inlearn
from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.lab.session import resume, start
from inlearn.runs.folder import RunFolder
from inlearn.runs.lease import lease_holder
from inlearn.runs.lines import read_lines
from inlearn.sweeps.coordinate import carry_out
from inlearn.sweeps.engine import Result
from inlearn.sweeps.engines.config import LocalConfig
from inlearn.sweeps.folder import PlanFolder, store_plan
from inlearn.sweeps.plan import Plan, with_overrides
from inlearn.sweeps.planned import planned
from inlearn.sweeps.standing import standings
from inlearn.sweeps.sweep import Outcome


def store(root: Path, overrides: list[str], study: str = "regression", name: str = "test") -> PlanFolder:
    plan = with_overrides(Plan(study=study, name=name), overrides)
    return store_plan(root, plan, planned(plan, root)[0])[0]


def states(plan: PlanFolder) -> list[str]:
    return [standing.state for standing in standings(plan.root, plan.runs)]


def trained(root: Path, id: str) -> list[tuple[int, int]]:
    """(first, last step) of every process that worked on a run."""
    return [(s["from_step"], s["to_step"]) for s in RunFolder(root / id).segments]


def assert_same_results(plan: PlanFolder, elsewhere: Path, study: str = "regression") -> None:
    """Every run has the bytes that one process makes, undisturbed, in another folder."""
    for run in plan.runs:
        alone = start(study, run.overrides, elsewhere, lambda text: None).path
        for name in ("metrics.jsonl", "references.jsonl", weights(run.last)):
            assert (plan.root / run.id / name).read_bytes() == (alone / name).read_bytes(), name


def weights(step: int) -> str:
    return f"checkpoints/{step:09d}/weights.safetensors"


def begin(root: Path, *words: str) -> subprocess.Popen:
    """`inlearn sweep` as its own process group, as a shell starts it."""
    words = ("regression", *words, "engine.stack=none", "--runs", str(root))
    command = [sys.executable, "-m", "inlearn.cli.main", "sweep", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def under_way(root: Path, words: list[str]) -> tuple[subprocess.Popen, PlanFolder]:
    """A sweep called "test" that has saved its first run at step 50."""
    process = begin(root, *words)
    plan = PlanFolder(root / ".plans" / "test")
    wait_until((plan.path / "runs.jsonl").exists, process)
    wait_until((root / plan.runs[0].id / weights(50)).exists, process)
    return process, plan


def holder_pid(folder: Path) -> int | None:
    holder = lease_holder(folder) if folder.exists() else None
    return holder["pid"] if holder else None


LONG = ["training.steps=600", 'record.checkpoints={"kind":"every","steps":50}', 'record.evaluations={"kind":"never"}']


def longer(tiny: tuple[str, ...]) -> list[str]:
    keys = {text.partition("=")[0] for text in LONG}
    return [text for text in tiny if text.partition("=")[0] not in keys] + LONG


def test_a_plan_is_carried_out_once_and_equals_single_runs(tiny, tmp_path):
    plan = store(tmp_path / "runs", [*tiny, "task.count=1,inf", "seed=range(2)"])
    said: list[str] = []
    summary = carry_out(plan, LocalConfig(workers=2, stack="none"), said.append)
    assert {result.state for result in summary.results.values()} == {"finished"} and not summary.stopped
    assert states(plan) == ["finished"] * 4
    assert_same_results(plan, tmp_path / "alone")
    again = carry_out(plan, LocalConfig(workers=2, stack="none"), said.append)
    assert not again.results and all(len(trained(plan.root, run.id)) == 1 for run in plan.runs)
    further = store(tmp_path / "runs", [*tiny, "task.count=1,inf", "seed=range(3)"])
    assert set(carry_out(further, LocalConfig(workers=1, stack="none"), said.append).results) == {
        run.id for run in further.runs if run.axes["seed"] == 2
    }


def test_a_run_may_change_its_engine_without_a_warning(tiny, tmp_path):
    plan = store(tmp_path, [*tiny, "training.until=20", "seed=range(1)"])
    carry_out(plan, LocalConfig(workers=1, stack="none"), lambda text: None)
    run = resume(plan.runs[0].id, ["training.until=none"], tmp_path, lambda text: None)
    assert [segment["engine"] for segment in run.folder.segments] == ["local", "none"]
    assert "resumed elsewhere" not in (run.path / "run.log").read_text()


def test_a_killed_worker_loses_nothing(tiny, tmp_path):
    process = begin(tmp_path, *longer(tiny), "seed=range(3)", "--name", "test", "engine.workers=2")
    wait_until((tmp_path / ".plans" / "test" / "runs.jsonl").exists, process)
    plan = PlanFolder(tmp_path / ".plans" / "test")
    first = tmp_path / plan.runs[0].id
    wait_until(lambda: (first / weights(50)).exists(), process)
    os.kill(holder_pid(first), signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert "SIGKILL" in said and states(plan) == ["finished"] * 3
    lost = [line for line in read_lines(plan.path / "log.jsonl") if line["state"] == "lost"]
    assert [line["id"] for line in lost] == [plan.runs[0].id]
    assert_same_results(plan, tmp_path / "alone")


@pytest.mark.slow  # its twin, of single runs or of stacks, is not
def test_an_interrupted_sweep_goes_on(tiny, tmp_path):
    words = [*longer(tiny), "seed=range(4)", "--name", "test", "engine.workers=2"]
    process, plan = under_way(tmp_path, words)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to everybody
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "the same command goes on" in said, said
    assert "running" not in states(plan) and "finished" not in states(plan)
    assert not any(lease_holder(tmp_path / run.id) for run in plan.runs if (tmp_path / run.id).exists())
    process = begin(tmp_path, *words)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and states(plan) == ["finished"] * 4, said
    assert_same_results(plan, tmp_path / "alone")


def test_two_sweeps_of_one_plan_share_the_work(tiny, tmp_path):
    words = [*longer(tiny), "seed=range(4)", "--name", "test", "engine.workers=1"]
    both = [begin(tmp_path, *words) for _ in range(2)]
    said = [process.communicate(timeout=180)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    plan = PlanFolder(tmp_path / ".plans" / "test")
    assert states(plan) == ["finished"] * 4
    assert [trained(tmp_path, run.id) for run in plan.runs] == [[(0, 600)]] * 4
    results = read_lines(plan.path / "log.jsonl")
    assert {line["state"] for line in results} <= {"finished", "busy"}


def test_cancel_reaches_the_sweep_and_its_runs(tiny, tmp_path):
    words = [*longer(tiny), "seed=range(4)", "--name", "test", "engine.workers=2"]
    process, plan = under_way(tmp_path, words)
    asked = subprocess.run(
        [sys.executable, "-m", "inlearn.cli.main", "cancel", "test", "--runs", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 0 and "asked to save and stop" in asked.stderr
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "cancelled: everything is saved" in said, said
    left = states(plan)
    assert "running" not in left and "planned" in left
    said = begin(tmp_path, *words).communicate(timeout=120)[1]
    assert states(plan) == ["finished"] * 4, said


def test_a_sweep_from_python(tiny, tmp_path):
    runs = inlearn.sweep("regression", *tiny, "seed=range(2)", "engine.workers=1", root=tmp_path, name="mine")
    assert runs.table["state"].tolist() == ["finished"] * 2 and runs.table["seed"].tolist() == [0, 1]
    with pytest.raises(EnvironmentFault, match="1 failed"):
        plain = [text for text in tiny if not text.startswith("training.rate")]
        inlearn.sweep("regression", *plain, "training.rate=1e30,0.01", root=tmp_path, name="bad")


@pytest.mark.parametrize("stop", [False, True])
def test_a_failure_stops_the_sweep_or_not(tiny, tmp_path, stop):
    plain = [text for text in tiny if not text.startswith("training.rate")]
    plan = store(tmp_path, [*plain, "training.rate=1e30,0.01,0.02,0.03"])
    summary = carry_out(plan, LocalConfig(workers=1, stack="none", stop_on_failure=stop), lambda text: None)
    assert summary.of("failed")[0].id == plan.runs[0].id
    assert "is nan" in summary.of("failed")[0].reason or "not finite" in summary.of("failed")[0].reason
    assert states(plan) == (["failed", *["planned"] * 3] if stop else ["failed", *["finished"] * 3])
    assert summary.stopped.startswith("stopped at the first failure") == stop
    again = carry_out(plan, LocalConfig(workers=1, stack="none"), lambda text: None)
    assert plan.runs[0].id not in again.results
    retried = carry_out(plan, LocalConfig(workers=1, stack="none"), lambda text: None, retry_failed=True)
    assert set(retried.results) == {plan.runs[0].id} and retried.of("failed")


def test_what_one_worker_cannot_write_stops_no_other(tiny, tmp_path):
    """A folder in the way, and a disk that is full: those two runs fail, the others finish."""
    plan = store(tmp_path, [*tiny, "seed=range(4)"])
    in_the_way, full = (tmp_path / run.id for run in plan.runs[1:3])
    in_the_way.mkdir()
    start("regression", [*plan.runs[2].overrides, "training.until=15"], tmp_path, lambda text: None)
    with small_disk(full):
        summary = carry_out(plan, LocalConfig(workers=2, stack="none"), lambda text: None)
        assert states(plan)[:2] == ["finished", "damaged"] and states(plan)[3] == "finished"
        assert "the disk is full" in summary.results[full.name].reason
        problem = Outcome(plan, summary, ()).problem()
        assert "1 failed, the first because" in problem and "1 have a damaged folder" in problem
        assert summary.results[full.name].state == "failed" and in_the_way.name not in summary.results
    in_the_way.rmdir()
    carry_out(plan, LocalConfig(workers=2, stack="none"), lambda text: None, retry_failed=True)
    assert states(plan) == ["finished"] * 4
    assert_same_results(plan, tmp_path / "alone")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Put `folder` on a disk of its own with no room for another checkpoint; give it back with what it held before."""
    kept = folder.with_name(f"kept-{folder.name}")
    shutil.copytree(folder, kept)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        shutil.rmtree(kept)


def test_two_plans_of_one_name_are_refused(tiny, tmp_path):
    plan = store(tmp_path, [*tiny, "seed=range(3)"])
    store(tmp_path, [*tiny, "seed=range(2)"])  # nothing has begun, so nothing can be mixed up
    plan = store(tmp_path, [*tiny, "seed=range(3)"])
    carry_out(plan, LocalConfig(workers=1, stack="none"), lambda text: None)
    before = (plan.path / "runs.jsonl").read_bytes()
    with pytest.raises(UserError, match="3 of its 3 runs are not in this plan"):
        store(tmp_path, [*tiny, "seed=range(3)", "model.dropout=0.1"])
    assert (plan.path / "runs.jsonl").read_bytes() == before


def test_a_plan_that_its_engine_refuses_leaves_no_name_behind(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm here
    with pytest.raises((UserError, EnvironmentFault)):
        inlearn.sweep("regression", *tiny, "engine=slurm", root=tmp_path, name="gone", seed=[0, 1])
    assert not (tmp_path / ".plans" / "gone").exists()


def test_a_run_made_under_another_preset_is_left_alone(lookup, tmp_path):
    """The user edits a preset after some runs are done: those stay as they are, the rest of the plan is carried out."""
    study = tmp_path / "mine.py"
    source = Path(lookup).read_text()
    study.write_text(source + '\nPRESETS = {"p": {"training": {"steps": 20, "batch": 8}}}\n')
    words = ["preset=p", "model.width=8", "model.layers=1", "model.heads=1"]
    plan = with_overrides(Plan(study=str(study), name="test"), [*words, "seed=range(2)"])
    folder, _ = store_plan(tmp_path / "runs", plan, planned(plan, tmp_path / "runs")[0])
    carry_out(folder, LocalConfig(workers=1, stack="none"), lambda text: None)
    before = [(folder.root / run.id / weights(20)).read_bytes() for run in folder.runs]
    study.write_text(source + '\nPRESETS = {"p": {"training": {"steps": 30, "batch": 8}}}\n')
    command = [sys.executable, "-m", "inlearn.cli.main", "sweep", str(study), *words, "seed=range(3)"]
    command += ["--name", "test", "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "2 were made under another preset" in done.stderr, done.stderr
    assert "training.steps = 20; the same words mean 30 now" in done.stderr, done.stderr
    after = PlanFolder(folder.path)
    assert states(after) == ["finished"] * 3 and [run.id for run in after.runs[:2]] == [run.id for run in folder.runs]
    assert before == [(folder.root / r.id / weights(20)).read_bytes() for r in folder.runs]
    without_slurm = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run([*command, "--renew", "engine=slurm"], capture_output=True, text=True, env=without_slurm)
    assert done.returncode in (1, 2) and (folder.path / "runs.jsonl").exists() and (folder.path / "log.jsonl").exists()
    done = subprocess.run([*command, "--renew"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [run.last for run in PlanFolder(folder.path).runs] == [30] * 3


def test_half_a_line_in_the_log_costs_that_line(tiny, tmp_path):
    plan = store(tmp_path, [*tiny, "seed=range(2)"])
    first, second = (run.id for run in plan.runs)
    plan.note(Result(first, "failed", "one"), "local")
    with (plan.path / "log.jsonl").open("ab") as file:
        file.write(b'{"id": "')
    plan.note(Result(second, "failed", "two"), "local")
    assert {id: line["reason"] for id, line in plan.last_results().items()} == {first: "one", second: "two"}


def test_finished_runs_take_the_names_that_a_plan_gives_them(tiny, tmp_path):
    words = [*tiny, "seed=range(2)"]
    inlearn.sweep("regression", *words, "engine.workers=1", root=tmp_path, name="plain")
    runs = inlearn.sweep("regression", *words, "name=s{seed}", root=tmp_path, name="named")
    assert [RunFolder.open(tmp_path, f"s{seed}").id for seed in (0, 1)] == runs.table["run"].tolist()
