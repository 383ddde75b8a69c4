"""Stopped in any way, as often as you like, a run ends with the same bytes as one that was never stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inlearn.core.files import write_json
from inlearn.lab.session import resume, start
from inlearn.runs.folder import RunFolder

PER_PROCESS = {"environment.json", "run.log", ".lease.lock", "report.html"}


def contents(path: Path, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Every file that must not depend on how often the run was stopped."""
    files = (p for p in path.rglob("*") if p.is_file() and p.name not in {*PER_PROCESS, *without})
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def quiet(text: str) -> None:
    pass


FEATURES = (
    "model.dropout=0.2",
    "training.accumulate=2",
    "training.clip=0.5",
    'record.trajectory={"kind":"every","steps":4}',
    "training.schedule=onecycle",
)


@pytest.fixture
def whole(tiny, tmp_path):
    return contents(start("regression", [*tiny, *FEATURES], tmp_path / "whole", quiet).path)


def test_resumed_twice_is_bit_identical(tiny, tmp_path, whole):
    root = tmp_path / "parts"
    run = start("regression", [*tiny, *FEATURES, "training.until=11"], root, quiet)
    resume(run.id, ["training.until=38"], root, quiet)
    resume(run.id, ["training.until=none"], root, quiet)
    assert contents(run.path) == whole
    assert len(run.folder.segments) == 3


def test_asking_again_takes_the_run_up(tiny, tmp_path, whole):
    asked = [*tiny, *FEATURES]
    start("regression", [*asked, "training.until=20"], tmp_path / "parts", quiet)
    run = start("regression", asked, tmp_path / "parts", quiet)
    assert contents(run.path) == whole
    said = []
    start("regression", asked, tmp_path / "parts", said.append)
    assert "already" in said[-1] and contents(run.path) == whole


def spawn(root: Path, overrides: list[str]) -> subprocess.Popen:
    code = "from inlearn.cli.main import main; main()"
    command = [sys.executable, "-c", code, "run", "regression", *overrides, "--runs", str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


LONG = ("training.steps=2000", "record.rolling=0.05", 'record.checkpoints={"kind":"every","steps":100}',
        'record.evaluations={"kind":"every","steps":500}', "record.training=50")  # fmt: skip


def longer(tiny: list[str]) -> list[str]:
    replaced = {text.partition("=")[0] for text in LONG}
    return [text for text in tiny if text.partition("=")[0] not in replaced] + list(LONG)


def test_killed_and_interrupted_in_a_subprocess(tiny, tmp_path):
    asked = longer(tiny)
    uninterrupted = contents(start("regression", asked, tmp_path / "whole", quiet).path)
    root = tmp_path / "killed"
    first = spawn(root, asked)
    while not list(root.glob("*/checkpoints/*/manifest.json")):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.01)
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.communicate()
    (path,) = (p for p in root.iterdir() if not p.name.startswith("."))
    assert RunFolder(path).status.state == "interrupted"

    second = spawn(root, asked)
    time.sleep(0.1)
    while RunFolder(path).status.state != "running":
        assert second.poll() is None, second.stderr.read()
        time.sleep(0.01)
    time.sleep(0.2)
    second.send_signal(signal.SIGTERM)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    status = RunFolder(path).status
    assert (status.state == "interrupted" and f"inlearn resume {path.name} --runs" in err) or status.step == 2000

    run = resume(path.name, [], root, quiet)
    assert run.folder.status.state == "finished"
    assert contents(path) == uninterrupted


def test_a_held_run_is_refused(tiny, tmp_path):
    asked = longer(tiny)
    first = spawn(tmp_path, asked)
    while not list(tmp_path.glob("*/lease.json")):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.01)
    second = spawn(tmp_path, asked)
    _, err = second.communicate(timeout=60)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert second.returncode == 2 and "is held by process" in err and "Traceback" not in err
    assert str(first.pid) in err


def test_a_damaged_checkpoint_is_left_out_with_a_warning(tiny, tmp_path):
    asked = [*tiny, *FEATURES]
    whole = contents(start("regression", asked, tmp_path / "whole", quiet).path)
    run = start("regression", [*asked, "training.until=45"], tmp_path / "parts", quiet)
    weights = run.path / "checkpoints" / "000000045" / "weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    weights.write_bytes(damaged)
    resume(run.id, ["training.until=none"], tmp_path / "parts", quiet)
    assert "is left out" in (run.path / "run.log").read_text()
    after = contents(run.path, without=("warnings.jsonl",))
    kept = {name: content for name, content in after.items() if "damaged/" not in name}
    assert kept == whole


def test_all_checkpoints_damaged_never_starts_afresh(tiny, tmp_path):
    from inlearn.core.errors import EnvironmentFault

    run = start("regression", [*tiny, "training.until=20"], tmp_path, quiet)
    for state in run.path.glob("checkpoints/*/state.json"):
        state.write_text("{}")
    with pytest.raises(EnvironmentFault, match="every checkpoint"):
        resume(run.id, ["training.until=none"], tmp_path, quiet)


def test_on_resume_only_what_is_not_hashed_may_change(tiny, tmp_path):
    from inlearn.core.errors import UserError

    run = start("regression", [*tiny, "training.until=10"], tmp_path, quiet)
    for override in ("seed=3", "training.rate=1", "model.width=32", "task.count=4"):
        with pytest.raises(UserError, match="part of what the run is"):
            resume(run.id, [override], tmp_path, quiet)
    assert resume(run.id, ["record.training=3", "training.until=12"], tmp_path, quiet).folder.status.step == 12


def test_nothing_but_the_asked_for_is_left_in_a_finished_folder(tiny, tmp_path):
    run = start("regression", tiny, tmp_path, quiet)
    steps = set(run.steps)
    best = run.checkpoint("best").step
    assert steps == {0, 15, 30, 45, 60, best}
    assert not list(run.path.rglob("*.aside")) and not (run.path / "lease.json").exists()


def test_a_kill_after_the_last_checkpoint_but_before_the_end_is_settled(tiny, tmp_path, whole):
    """Lines past the checkpoint, a forgotten rolling checkpoint, no best pointer, status still running."""
    import json
    import shutil

    asked = [*tiny, *FEATURES]
    run = start("regression", asked, tmp_path / "killed", quiet)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"event":"training","step":61,"loss":0.0}\n{"half')
    (run.path / "checkpoints" / "best.json").unlink()
    shutil.copytree(run.path / "checkpoints" / "000000045", run.path / "checkpoints" / "000000044")
    rolling = run.path / "checkpoints" / "rolling.json"
    steps = json.loads(rolling.read_text()) if rolling.exists() else []
    rolling.write_text(json.dumps([44, *steps]))
    run.folder.set_status("running", 60)
    assert start("regression", asked, tmp_path / "killed", quiet).folder.status.state == "finished"
    assert contents(run.path) == whole


def test_a_kill_before_the_first_checkpoint_starts_cleanly(tiny, tmp_path, whole):
    """Metrics and trajectory rows of a start that never reached a checkpoint are written anew, not twice."""
    import shutil

    asked = [*tiny, *FEATURES]
    run = start("regression", [*asked, "training.until=1"], tmp_path / "killed", quiet)
    lines = (run.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_bytes(b"".join(line for line in lines if b'"step":0' in line))
    shutil.rmtree(run.path / "checkpoints")
    run.folder.set_status("running", 0)
    start("regression", asked, tmp_path / "killed", quiet)
    assert contents(run.path) == whole


def stop_after(monkeypatch, step: int, how) -> None:
    """Have the process call `how` right after an update, before anything about it is written."""
    from inlearn.training.trainer import Trainer

    update = Trainer.update

    def updating(self, task):
        update(self, task)
        if self.progress.step == step:
            how()

    monkeypatch.setattr(Trainer, "update", updating)


class Killed(BaseException):
    pass


def kill() -> None:
    raise Killed


@pytest.mark.parametrize("step", [1, 14, 16, 33])
def test_killed_between_checkpoints(tiny, tmp_path, whole, monkeypatch, step):
    """Also between the one of step 0 and the next, where nothing but the initial weights is kept."""
    asked = [*tiny, *FEATURES]
    with monkeypatch.context() as patched, pytest.raises(Killed):
        stop_after(patched, step, kill)
        start("regression", asked, tmp_path / "killed", quiet)
    run = start("regression", asked, tmp_path / "killed", quiet)
    assert contents(run.path) == whole


def test_a_trajectory_asked_for_later_survives_a_kill(tiny, tmp_path, monkeypatch):
    run = start("regression", [*tiny, "training.until=20"], tmp_path, quiet)
    later = ['record.trajectory={"kind":"every","steps":4}', "training.until=60"]
    with monkeypatch.context() as patched, pytest.raises(Killed):
        stop_after(patched, 29, kill)
        resume(run.id, later, tmp_path, quiet)
    resume(run.id, later, tmp_path, quiet)
    from inlearn.runs.trajectory import Trajectory

    assert Trajectory.open(run.path / "trajectory").steps == list(range(24, 61, 4))


def test_lost_checkpoints_are_not_a_fresh_start(tiny, tmp_path):
    import shutil

    from inlearn.core.errors import EnvironmentFault

    run = start("regression", [*tiny, "training.until=40"], tmp_path, quiet)
    before = (run.path / "metrics.jsonl").read_bytes()
    shutil.rmtree(run.path / "checkpoints")
    with pytest.raises(EnvironmentFault, match="no checkpoint"):
        resume(run.id, ["training.until=60"], tmp_path, quiet)
    assert (run.path / "metrics.jsonl").read_bytes() == before


def test_who_lost_the_lease_writes_nothing_more(tiny, tmp_path):
    """A machine slept through its lease, another took the run over: the first one finds out and leaves no trace."""
    words = [text for text in tiny if not text.startswith(("training.steps", "record.checkpoints"))]
    command = [
        sys.executable,
        "-m",
        "inlearn.cli.main",
        "run",
        "regression",
        *words,
        "training.steps=200000",
        "execution.step=eager",
    ]
    command += ['record.checkpoints={"kind":"never"}', "name=taken", "--runs", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = tmp_path / ".names" / "taken"
    while not (lines.exists() and (tmp_path / lines.read_text().strip() / "metrics.jsonl").exists()):
        assert process.poll() is None
        time.sleep(0.05)
    folder = tmp_path / lines.read_text().strip()
    while b'"event":"training"' not in (folder / "metrics.jsonl").read_bytes():  # the first checkpoint is behind it
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    taken = {"host": "node9", "pid": 1, "namespace": "", "process_start": None, "since": "now", "token": "theirs"}
    write_json(folder / "lease.json", taken)
    write_json(folder / "status.json", {"state": "running", "step": 1, "reason": "theirs"})
    names = ("metrics.jsonl", "status.json", "lease.json", "environment.json")
    before = {name: (folder / name).read_bytes() for name in names}
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "lost its lease" in said, said
    # One line may have been on its way when the process was stopped.
    after = {name: (folder / name).read_bytes() for name in names}
    grown = after.pop("metrics.jsonl").removeprefix(before.pop("metrics.jsonl"))
    assert after == before and grown.count(b"\n") <= 1
