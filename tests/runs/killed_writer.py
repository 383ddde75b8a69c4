"""A run that is killed again and again, in one process that imports once and forks; `test_kill.py` reads its findings.

The child below writes everything a training run writes. It is killed before every single file operation in turn
(an audit hook counts them), then at random instants, and after each kill the folder must still be sound.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from inlearn.core.configuration import digest
from inlearn.runs.checkpoints import Checkpoint, CheckpointStore
from inlearn.runs.folder import RunFolder, list_runs, names
from inlearn.runs.lease import Lease, lease_holder
from inlearn.runs.lines import MetricsWriter, read_lines, truncate
from inlearn.runs.trajectory import Trajectory
from inlearn.runs.verify import verify

CONFIG = {"seed": 1}
ID, NAME, STEPS, SIZE = digest(CONFIG), "killed", 4, 3000
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.utime"}


def weights_after(step: int) -> torch.Tensor:
    return torch.arange(SIZE, dtype=torch.float32) + step


def work(root: Path) -> None:
    """Make or resume the run, then train it to its end, replacing and removing checkpoints on the way."""
    run = RunFolder.create(root, ID, {"id": ID, "config": CONFIG}, {"kind": "none"}, NAME)
    with Lease(run.path) as lease:
        store = CheckpointStore(run.path)
        loaded = store.load_last_good(complain)
        trajectory = Trajectory(run.path / "trajectory", [("weight", (SIZE,))])
        step, lengths = (0, {"metrics.jsonl": 0, "trajectory": 0})
        if loaded is not None:
            step, lengths = loaded[0].step, loaded[1]["lengths"]
        truncate(run.path / "metrics.jsonl", lengths["metrics.jsonl"])
        trajectory.truncate(lengths["trajectory"])
        metrics = MetricsWriter(run.path / "metrics.jsonl")
        if step:
            settle(store, step)  # a kill may have come between a checkpoint and what follows from it
        while step < STEPS:
            step += 1
            metrics.write({"event": "training", "step": step, "loss": 1 / step})
            metrics.flush()
            trajectory.append(step, weights_after(step))
            lengths = {"metrics.jsonl": metrics.flush(sync=True), "trajectory": trajectory.sync()}
            for _ in range(1 + step % 2):  # every other step is saved twice: the second replaces the first
                lease.check()
                content = {"weight": weights_after(step)}
                store.save(Checkpoint(step, content, {}, {"length": lengths["metrics.jsonl"]}), lengths)
            settle(store, step)
        metrics.close()
        trajectory.close()
    run.set_status("finished", STEPS)


def settle(store: CheckpointStore, step: int) -> None:
    """The step's checkpoint is the best so far; two are kept."""
    store.set_best(step, "loss", 1 / step)
    for old in store.steps():
        if old < step - 1:
            store.remove(old)


def complain(message: str) -> None:
    raise AssertionError(f"a kill must not damage a checkpoint: {message}")


def killed(root: Path, prepare: Callable[[], None], delay: float | None = None) -> bool:
    """Run `work` in a child; True if it was killed, False if it came to its end."""
    child = os.fork()
    if child == 0:
        prepare()
        try:
            work(root)
        except BaseException as error:
            print(json.dumps({"error": repr(error)}), flush=True)
            os._exit(1)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the child failed"
        return False
    return True


def kill_before(operation: int) -> Callable[[], None]:
    """Installed in a child: SIGKILL to itself before its `operation`-th file operation."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES and not reads:
            count += 1
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    return lambda: sys.addaudithook(hook)


def inspect(root: Path) -> None:
    """What must hold whenever a process was killed."""
    for run in list_runs(root):
        assert verify(run) == [], verify(run)
        assert lease_holder(run.path) is None
        assert run.status.state in ("new", "finished")
        store = CheckpointStore(run.path)
        written = read_lines(run.path / "metrics.jsonl", "training")
        for step in store.steps():
            checkpoint, manifest = store.load(step), store.manifest(step)
            assert torch.equal(checkpoint.weights["weight"], weights_after(step))
            assert checkpoint.state["length"] == manifest["lengths"]["metrics.jsonl"]
            assert [line["step"] for line in written][:step] == list(range(1, step + 1))
    assert names(root) in ({}, {NAME: ID})


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def main(place: Path) -> None:
    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # a killed process loses nothing of the page cache; only a power cut would
    work(place / "straight")
    expected = files(place / "straight")
    operation, random_kills, chance = 0, 0, random.Random(0)
    # Killed once at every operation, each time from the start, then resumed to the end.
    while True:
        operation += 1
        root = place / "once"
        if not killed(root, kill_before(operation)):
            break
        inspect(root)
        work(root)
        assert files(root) == expected, (operation, files(root).keys() ^ expected.keys())
        shutil.rmtree(root)
    # Killed at growing distances without ever being let to its end, then finished: resumes of resumes.
    root = place / "often"
    for attempt in range(1, 80):
        if not killed(root, kill_before(attempt)):
            break
        inspect(root)
    work(root)
    assert files(root) == expected
    for _ in range(10):
        root = place / f"random{random_kills}"
        random_kills += killed(root, lambda: None, chance.uniform(0, 0.03))
        inspect(root)
        work(root)
        assert files(root) == expected
        shutil.rmtree(root)
    print(json.dumps({"operations": operation - 1, "attempts": attempt, "random": random_kills}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
