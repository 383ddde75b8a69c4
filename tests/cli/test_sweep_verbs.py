"""`inlearn sweep`, `status`, `logs`, `cancel` as a user types them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from inlearn.sweeps.engine import Result
from inlearn.sweeps.folder import store_plan
from inlearn.sweeps.plan import Plan, with_overrides
from inlearn.sweeps.planned import planned


def inlearn(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inlearn.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def swept(tiny, tmp_path_factory) -> Path:
    """A folder in which a plan of three runs was half carried out: one of them alone, then asked for two more."""
    here = tmp_path_factory.mktemp("swept")
    assert inlearn("sweep", "regression", *tiny, "seed=range(2)", "--name", "mine", cwd=here).returncode == 0
    return here


def test_a_dry_run_says_what_is_done_and_what_the_rest_costs(tiny, swept):
    before = sorted(path.name for path in (swept / "runs").iterdir())
    asked = inlearn("sweep", "regression", *tiny, "seed=range(4)", "task.count=inf,4", "--dry-run", cwd=swept)
    assert asked.returncode == 0, asked.stderr
    assert len(re.findall(r"finished", asked.stdout)) == 2 and len(re.findall(r"planned", asked.stdout)) == 6
    assert "8 runs: 2 finished, 6 planned" in asked.stderr
    assert re.search(r"6 runs to do, about \d+ (seconds|minutes) for one worker", asked.stderr)
    assert sorted(path.name for path in (swept / "runs").iterdir()) == before
    done = inlearn("sweep", "regression", *tiny, "seed=range(2)", "--dry-run", cwd=swept)
    assert "nothing is left to do" in done.stderr


def test_status_shows_plans_and_their_runs(swept):
    every = inlearn("status", cwd=swept)
    assert every.returncode == 0 and re.search(r"mine\s+regression\s+2\s+2 finished", every.stdout)
    one = inlearn("status", "mine", cwd=swept)
    assert one.returncode == 0 and len(re.findall(r"finished\s+60/60", one.stdout)) == 2
    watched = inlearn("status", "mine", "--watch", cwd=swept)  # everything is done, so it ends by itself
    assert watched.returncode == 0 and "2 finished" in watched.stdout


def test_logs_of_a_run(swept):
    id = next(path.name for path in (swept / "runs").iterdir() if re.fullmatch("[0-9a-f]{12}", path.name))
    assert "steps 0 to 60" in inlearn("logs", id, "--follow", cwd=swept).stdout


def test_why_a_run_stands_still_is_not_who_held_it_once(tiny, tmp_path):
    plan = with_overrides(Plan(study="regression", name="test"), [*tiny, "seed=range(2)"])
    folder = store_plan(tmp_path, plan, planned(plan, tmp_path)[0])[0]
    for run, state in zip(folder.runs, ("busy", "lost"), strict=True):
        folder.note(Result(run.id, state, f"{state} then"), "local")
    shown = inlearn("status", "test", "--runs", str(tmp_path), cwd=tmp_path).stdout
    assert "lost then" in shown and "busy then" not in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep", "regresion", "seed=1,2"], "did you mean 'regression'"),
        (["sweep", "regression", "task.cout=1,2"], "task.count"),
        (["sweep", "regression", "seed=range(x)"], "expected range(stop)"),
        (["sweep", "regression", "seed=1,2", "engine=slrm"], "did you mean 'slurm'"),
        (["sweep", "regression", "seed=1,2", "engine.wrkers=2"], "did you mean 'engine.workers'"),
        (["sweep", "regression", "seed=1,2", "engine.workers=0"], "engine.workers = 0: expected"),
        (["sweep", "regression", "seed=1,2", "engine=stacked"], "expected engine.stack=auto, or how many"),
        (["sweep", "regression", "seed=1,2", "engine.stack=1"], "expected auto, none, or a whole number from 2 on"),
        (["sweep", "regression", "seed=1,2", "device=cuda:7"], "device = cuda:7: no such device here"),
        (["sweep", "regression", "seed=1,2", "--name", "../x"], "plan name = ../x"),
        (["sweep", "regression", "seed=1,2", "name=both"], "would name several runs"),
        (["sweep", "missing.yaml"], "no such file"),
        (["sweep", "regression", "seed"], "'seed' is not key=value"),
        (["status", "mien"], "did you mean 'mine'"),
        (["cancel", "nothing"], "no run 'nothing'"),
        (["logs", "nothing"], "no run 'nothing'"),
        (["run", "regression", "seed=1,2"], "inlearn sweep"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(swept, words, said):
    before = sorted((swept / "runs").rglob("*"))
    asked = inlearn(*words, cwd=swept)
    assert asked.returncode == 2 and said in asked.stderr and "Traceback" not in asked.stderr, asked.stderr
    assert sorted((swept / "runs").rglob("*")) == before


def test_torchrun_starts_no_sweep(tiny, tmp_path, monkeypatch):
    """Its processes would each carry out the plan, and their workers wait for one another."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "inlearn.cli.main", "sweep", "regression", *tiny, "seed=1,2"]
    asked = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert "inlearn: WORLD_SIZE = 2: a sweep is started once" in asked.stderr, asked.stderr
    assert re.search(r"exitcode +: 2 ", asked.stderr) and "inlearn/sweeps" not in asked.stderr
    assert not list(tmp_path.iterdir())
