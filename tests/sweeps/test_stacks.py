"""Sweeps that train their runs in stacks, with real processes: killed, interrupted, cancelled, failing, held elsewhere.

What a member's folder holds is compared with what a stack of one makes, undisturbed, in another folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sweep_processes import wait_until

import inlearn
from inlearn.lab.session import start
from inlearn.runs.folder import RunFolder
from inlearn.runs.lease import Lease, lease_holder
from inlearn.runs.lines import read_lines
from inlearn.sweeps.coordinate import carry_out
from inlearn.sweeps.engine import Job, Wanted
from inlearn.sweeps.engines.config import LocalConfig
from inlearn.sweeps.folder import PlanFolder, store_plan
from inlearn.sweeps.plan import Plan, with_overrides
from inlearn.sweeps.planned import planned
from inlearn.sweeps.standing import standings
from inlearn.sweeps.worker import carry_out as work

LONG = ["training.steps=600", 'record.checkpoints={"kind":"every","steps":50}', 'record.evaluations={"kind":"never"}']


def quiet(text: str) -> None:
    pass


def longer(tiny: tuple[str, ...]) -> list[str]:
    """`tiny`, but 600 steps with a checkpoint every 50."""
    keys = {text.partition("=")[0] for text in LONG}
    return [text for text in tiny if text.partition("=")[0] not in keys] + LONG


def store(root: Path, overrides: list[str]) -> PlanFolder:
    plan = with_overrides(Plan(study="regression", name="test"), overrides)
    return store_plan(root, plan, planned(plan, root)[0])[0]


def states(plan: PlanFolder) -> list[str]:
    return [standing.state for standing in standings(plan.root, plan.runs)]


def trained(root: Path, id: str) -> list[tuple[int, int]]:
    """(first, last step) of every process that worked on a run; the last step is 0 where it was killed."""
    return [(s["from_step"], s.get("to_step", 0)) for s in RunFolder(root / id).segments]


def weights(step: int) -> str:
    return f"checkpoints/{step:09d}/weights.safetensors"


def holder_pid(folder: Path) -> int | None:
    holder = lease_holder(folder) if folder.exists() else None
    return holder["pid"] if holder else None


def assert_same_results(plan: PlanFolder, elsewhere: Path) -> None:
    for run in plan.runs:
        alone = start("regression", [*run.overrides, "execution.engine=stacked"], elsewhere, quiet).path
        for name in ("metrics.jsonl", "references.jsonl", weights(run.last)):
            assert (plan.root / run.id / name).read_bytes() == (alone / name).read_bytes(), (run.label, name)


def forms(root: Path, id: str) -> list[tuple[str, int]]:
    return [(segment["form"], segment["members"]) for segment in RunFolder(root / id).segments]


def begin(root: Path, *words: str) -> subprocess.Popen:
    """`inlearn sweep` of "test" as its own process group, as a shell starts it."""
    words = ("regression", *words, "--name", "test", "--runs", str(root))
    command = [sys.executable, "-m", "inlearn.cli.main", "sweep", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def under_way(root: Path, words: list[str]) -> tuple[subprocess.Popen, PlanFolder]:
    """A sweep whose first and last run, of one stack, have saved step 50."""
    process = begin(root, *words)
    plan = PlanFolder(root / ".plans" / "test")
    wait_until((plan.path / "runs.jsonl").exists, process)
    wait_until(lambda: all((root / run.id / weights(50)).exists() for run in plan.runs), process)
    return process, plan


def test_a_plan_is_carried_out_in_stacks_and_grows(tiny, tmp_path):
    words = [word for word in tiny if not word.startswith("training.rate")]
    words += ["task.count=1,inf", "training.rate=0.01,0.003"]
    plan = store(tmp_path / "runs", words)
    said: list[str] = []
    carry_out(plan, LocalConfig(workers=1), said.append)
    assert said[0].startswith("4 runs in 1 stack of 4: 3,409 parameters × 80 tokens")
    assert states(plan) == ["finished"] * 4
    assert [forms(plan.root, run.id) for run in plan.runs] == [[("stacked", 4)]] * 4
    assert not carry_out(plan, LocalConfig(workers=1), quiet).results
    grown = store(tmp_path / "runs", [*words, "seed=range(2)"])
    assert len(carry_out(grown, LocalConfig(workers=2), quiet).results) == 4
    assert states(grown) == ["finished"] * 8 and all(len(trained(plan.root, run.id)) == 1 for run in grown.runs)
    assert_same_results(grown, tmp_path / "alone")


def test_a_member_whose_loss_is_no_number_fails_alone(tiny, tmp_path):
    plain = [text for text in tiny if not text.startswith("training.rate")]
    plan = store(tmp_path / "runs", [*plain, "training.rate=0.01,1e30,0.02,0.03"])
    summary = carry_out(plan, LocalConfig(workers=1), quiet)
    assert states(plan) == ["finished", "failed", "finished", "finished"]
    bad = plan.runs[1].id
    assert "is nan" in summary.results[bad].reason or "not finite" in summary.results[bad].reason
    again = carry_out(plan, LocalConfig(workers=1), quiet, retry_failed=True)
    assert [result.id for result in again.of("failed")] == [bad] and list(again.results) == [bad]
    plan.runs.pop(1)
    assert_same_results(plan, tmp_path / "alone")


@pytest.mark.slow  # its twin, of single runs or of stacks, is not
def test_a_killed_worker_loses_no_step_that_was_saved(tiny, tmp_path):
    words = [*longer(tiny), "seed=range(5)", "engine.workers=2"]
    process, plan = under_way(tmp_path / "runs", words)
    first = plan.root / plan.runs[0].id
    victims = [r.id for r in plan.runs if holder_pid(plan.root / r.id) == holder_pid(first)]
    assert len(victims) == 3
    os.kill(holder_pid(first), signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and states(plan) == ["finished"] * 5, said
    assert "5 runs in 2 stacks of 2 to 3" in said and said.count("SIGKILL") == 3
    lines = read_lines(plan.path / "log.jsonl")
    assert sorted(line["id"] for line in lines if line["state"] == "lost") == sorted(victims)
    assert sorted(line["id"] for line in lines if line["state"] == "finished") == sorted(r.id for r in plan.runs)
    for id in victims:
        (killed, _), (goes_on, end) = trained(plan.root, id)
        assert killed == 0 < goes_on < end == 600
    assert_same_results(plan, tmp_path / "alone")


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_in_other_company(tiny, tmp_path):
    words = [*longer(tiny), "seed=range(4)"]
    process, plan = under_way(tmp_path / "runs", [*words, "engine.workers=1"])
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to everybody
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "the same command goes on" in said, said
    assert states(plan) == ["interrupted"] * 4
    assert not any(lease_holder(plan.root / run.id) for run in plan.runs)
    said = begin(tmp_path / "runs", *words, "engine.stack=3").communicate(timeout=120)[1]
    assert states(plan) == ["finished"] * 4, said
    assert [forms(plan.root, run.id) for run in plan.runs] == [[("stacked", 4), ("stacked", 2)]] * 4
    assert_same_results(plan, tmp_path / "alone")


@pytest.mark.parametrize("what", ["plan", "run"])
def test_cancel_reaches_the_stack_or_one_of_its_members(tiny, tmp_path, what):
    steps = "training.steps=1500" if what == "run" else "training.steps=19000"
    words = [word for word in longer(tiny) if not word.startswith("training.steps")] + [steps, "seed=range(3)"]
    process, plan = under_way(tmp_path, [*words, "engine.workers=1"])
    named = "test" if what == "plan" else plan.runs[1].id
    asked = [sys.executable, "-m", "inlearn.cli.main", "cancel", named, "--runs", str(tmp_path)]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    if what == "plan":
        assert states(plan) == ["interrupted"] * 3 and "cancelled: everything is saved" in said
    else:
        assert states(plan) == ["finished", "interrupted", "finished"], said
        begin(tmp_path, *words).communicate(timeout=120)
        assert states(plan) == ["finished"] * 3


def test_a_run_held_elsewhere_is_waited_for_and_the_others_go_on(tiny, tmp_path):
    plan = store(tmp_path / "runs", [*tiny, "seed=range(3)"])
    run = plan.runs[1]
    held = start("regression", [*run.overrides, "execution.engine=stacked", "training.until=15"], plan.root, quiet).path
    done = threading.Event()

    def hold() -> None:  # another process could not be told to let go in the middle of a step
        with Lease(held):
            done.set()
            wait_until(lambda: states(plan)[::2] == ["finished"] * 2)

    holder = threading.Thread(target=hold)
    holder.start()
    done.wait()
    said: list[str] = []
    summary = carry_out(plan, LocalConfig(workers=1), said.append)
    holder.join()
    assert "waiting for 1 run that another process is training" in said
    assert {result.state for result in summary.results.values()} == {"finished"}
    assert states(plan) == ["finished"] * 3 and forms(plan.root, run.id) == [("stacked", 1)] * 2
    assert_same_results(plan, tmp_path / "alone")


def test_a_run_that_was_begun_alone_stays_alone(tiny, tmp_path):
    plan = store(tmp_path, [*tiny, "seed=range(4)"])
    alone, member = plan.runs[0], plan.runs[2]
    start("regression", [*alone.overrides, "training.until=15"], tmp_path, quiet)
    start("regression", [*member.overrides, "training.until=30", "execution.engine=stacked"], tmp_path, quiet)
    said: list[str] = []
    carry_out(plan, LocalConfig(workers=1), said.append)
    assert "3 runs in 1 stack of 3" in said[0] and said[0].endswith("1 one by one: begun so")
    assert states(plan) == ["finished"] * 4
    assert forms(tmp_path, alone.id) == [("solo", 1)] * 2
    assert forms(tmp_path, member.id) == [("stacked", 1), ("stacked", 3)]
    assert "resumed elsewhere" not in (tmp_path / alone.id / "run.log").read_text()


def test_what_is_asked_of_a_stack_is_checked_member_by_member(tiny, tmp_path):
    """A worker whose code reads one run otherwise, or that finds one begun alone since, trains the others as ever."""
    plan = store(tmp_path, [*tiny, "seed=range(4)"])
    start("regression", [*plan.runs[3].overrides, "training.until=15"], tmp_path, quiet)
    group = [Wanted(run.id, run.overrides) for run in plan.runs]
    group[1] = Wanted("0123456789ab", group[1].overrides)
    results = work(Job(tuple(group), "regression", str(tmp_path)))
    assert [result.id for result in results] == [run.id for run in group]
    assert [result.state for result in results] == ["finished", "refused", "finished", "finished"]
    assert results[1].reason.startswith("run 0123456789ab of the plan reads as run")
    assert [forms(tmp_path, run.id)[-1] for run in (plan.runs[0], plan.runs[3])] == [("stacked", 2), ("solo", 1)]
    assert [result.state for result in work(Job(tuple(group[:1]), "no-such-study", str(tmp_path)))] == ["refused"]


def test_names_put_no_runs_into_groups_of_their_own(tiny, tmp_path):
    words = [*tiny, "task.count=1,4", "seed=range(2)", "name=m{task.count}_s{seed}", 'tags=["m{task.count}"]']
    plan = store(tmp_path, words)
    carry_out(plan, LocalConfig(workers=1), quiet)
    many = inlearn.open_runs("test", tmp_path)
    assert many.axes == ["task.count", "seed"]
    assert (many.summarise(measures=("loss",)).groups["n"] == 2).all()


def test_runs_of_different_shapes_are_refused_before_anything_is_made(words_of_two_widths, tmp_path):
    command = [sys.executable, "-m", "inlearn.cli.main", "sweep", "regression", *words_of_two_widths]
    command += ["engine.stack=2", "--name", "two", "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "model.width = 16 and model.width = 32" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob(".plans/[!.]*")) and not list(tmp_path.glob("[0-9a-f]*"))
    done = subprocess.run([*command, "--dry-run"], capture_output=True, text=True)
    assert done.returncode == 2 and "model.width = 16 and model.width = 32" in done.stderr, done.stderr


@pytest.fixture
def words_of_two_widths(tiny) -> list[str]:
    return [word for word in tiny if not word.startswith("model.width")] + ["model.width=16,32"]


def test_a_dry_run_says_what_would_be_chosen(tiny, tmp_path):
    command = [sys.executable, "-m", "inlearn.cli.main", "sweep", "regression", *tiny, "seed=range(4)", "engine=auto"]
    command += ["engine.workers=2", "--dry-run", "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "\n4 runs in 2 stacks of 2: 3,409 parameters × 80 tokens = 2.7e5 a step, below 5e7" in done.stderr, (
        done.stderr
    )
    assert "for one worker of this machine, one by one (" in done.stderr and not list(tmp_path.iterdir())


def test_from_python_runs_are_opened_together(tiny, tmp_path):
    runs = inlearn.sweep("regression", *tiny, "seed=range(3)", "engine.workers=1", root=tmp_path, name="mine")
    assert runs.table["state"].tolist() == ["finished"] * 3
    assert [forms(tmp_path, id) for id in runs.table["run"]] == [[("stacked", 3)]] * 3
    assert json.loads((tmp_path / runs.table["run"][0] / "config.json").read_text())["unhashed"]["execution"] == {
        **RunFolder(tmp_path / runs.table["run"][0]).config["unhashed"]["execution"],
        "engine": "auto",
    }
