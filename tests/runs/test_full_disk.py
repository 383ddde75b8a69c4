"""A real full disk and a real read-only file system: a tiny tmpfs, where we may mount one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from inlearn.core.errors import EnvironmentFault
from inlearn.runs.checkpoints import Checkpoint, CheckpointStore
from inlearn.runs.folder import RunFolder, list_runs
from inlearn.runs.lease import Lease, lease_holder
from inlearn.runs.lines import MetricsWriter, read_lines
from inlearn.runs.trajectory import Trajectory

ID, OTHER = "0123456789ab", "ba9876543210"
SIZE = 64 * 1024  # floats: a row is 256 KiB of the disk's 1 MiB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def started(root: Path) -> RunFolder:
    return RunFolder.create(root, ID, {"id": ID, "config": {}}, {"kind": "none"})


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not one page is free inside."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    ballast.unlink()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def checkpoint(step: int, size: int = SIZE) -> Checkpoint:
    return Checkpoint(step, {"weight": torch.full((size,), float(step))}, {}, {})


STATES = pytest.mark.parametrize(
    ("state", "message"), [(full, "the disk is full"), (read_only, "the file system is read-only")]
)
State = Callable[[Path], contextlib.AbstractContextManager[None]]


@STATES
def test_a_checkpoint_that_does_not_fit_leaves_the_others(disk: Path, state: State, message: str) -> None:
    run = started(disk)
    store = CheckpointStore(run.path)
    store.save(checkpoint(1), {})
    before = tree(run.path)
    with state(disk):
        for step in (1, 2):  # the replacement of one, and a new one
            with pytest.raises(EnvironmentFault, match=f"cannot write .*{message}"):
                store.save(checkpoint(step), {})
        with pytest.raises(EnvironmentFault, match=message):
            store.set_best(1, "loss", 1.0)
        assert tree(run.path) == before
        assert torch.equal(store.load(1).weights["weight"], torch.ones(SIZE))
    store.save(checkpoint(2), {})
    assert store.steps() == [1, 2]


@STATES
def test_a_run_is_not_half_made(disk: Path, state: State, message: str) -> None:
    root = disk / "runs"
    started(root)
    with state(disk):
        with pytest.raises(EnvironmentFault, match=message):
            RunFolder.create(root, OTHER, {"id": OTHER, "config": {}}, {"kind": "none"}, "name")
        with pytest.raises(EnvironmentFault, match=message):
            started(root).set_status("running", 1)
        with pytest.raises(EnvironmentFault, match=message), Lease(root / ID):
            pass
        with pytest.raises(EnvironmentFault, match=message):
            RunFolder.create(disk / "elsewhere", OTHER, {"id": OTHER, "config": {}}, {"kind": "none"})
    assert [run.id for run in list_runs(root)] == [ID] and not list(root.rglob("*.aside"))
    assert started(root).status.state == "new"
    with Lease(root / ID) as lease:
        lease.check()


def test_metrics_keep_whole_lines_and_the_waiting_ones_are_written_later(disk: Path) -> None:
    path = disk / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1})
    kept = writer.flush()
    writer.write({"step": 2, "text": "x" * 10_000})
    with full(disk):
        with pytest.raises(EnvironmentFault, match=r"metrics.jsonl: the disk is full"):
            writer.flush()
        assert path.stat().st_size == kept
    writer.close()
    assert [line["step"] for line in read_lines(path)] == [1, 2]


def test_a_trajectory_row_that_does_not_fit_does_not_count(disk: Path) -> None:
    trajectory = Trajectory(disk / "trajectory", [("weight", (SIZE,))])
    trajectory.append(1, torch.ones(SIZE))
    with full(disk):
        with pytest.raises(EnvironmentFault, match=r"weights.f32: the disk is full"):
            trajectory.append(2, torch.ones(SIZE))
        assert trajectory.rows == 1 and Trajectory.open(disk / "trajectory").verify() == []
    trajectory.append(2, torch.ones(SIZE))
    assert trajectory.steps == [1, 2] and trajectory.verify() == []
    trajectory.close()


def test_a_lease_on_a_disk_that_turned_read_only_ends_without_hiding_the_error(disk: Path) -> None:
    run = started(disk)
    with contextlib.ExitStack() as stack:
        with pytest.raises(EnvironmentFault, match="read-only"), Lease(run.path):
            stack.enter_context(read_only(disk))
            run.set_status("running", 1)
        holder = lease_holder(run.path)
        assert holder is not None and holder["pid"] == os.getpid(), "until this process ends, as nobody could remove it"


def test_a_read_only_run_can_be_read(disk: Path) -> None:
    run = started(disk)
    CheckpointStore(run.path).save(checkpoint(1), {})
    trajectory = Trajectory(run.path / "trajectory", [("weight", (2,))])
    trajectory.append(1, torch.ones(2))
    trajectory.close()
    with read_only(disk):
        assert RunFolder.open(disk, ID).status.state == "new"
        assert CheckpointStore(run.path).load(1).step == 1
        loaded = CheckpointStore(run.path).load_last_good(pytest.fail)
        assert loaded is not None and loaded[0].step == 1
        assert Trajectory.open(run.path / "trajectory").weights(1)["weight"].tolist() == [1, 1]
