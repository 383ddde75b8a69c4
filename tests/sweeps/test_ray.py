"""Sweeps on a real Ray: one that is started for the sweep, and a cluster of two CPUs and two (pretended) cards."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.lab.session import start
from inlearn.runs.folder import RunFolder
from inlearn.runs.lease import lease_holder
from inlearn.runs.lines import read_lines
from inlearn.sweeps.coordinate import carry_out
from inlearn.sweeps.engine import Job, Wanted
from inlearn.sweeps.engines import ray as engine
from inlearn.sweeps.engines.config import RayConfig
from inlearn.sweeps.folder import PlanFolder, store_plan
from inlearn.sweeps.plan import Plan, with_overrides
from inlearn.sweeps.planned import planned
from inlearn.sweeps.standing import standings

pytest.importorskip("ray", reason="Ray is not installed: pip install 'inlearn[ray]'")


def longer(tiny: tuple[str, ...], steps: int = 600) -> list[str]:
    """The same run of `steps` steps, with a checkpoint every 50."""
    changed = ["training.steps", "record.checkpoints", "record.evaluations"]
    kept = [text for text in tiny if text.partition("=")[0] not in changed]
    every = 'record.checkpoints={"kind":"every","steps":50}'
    return [*kept, f"training.steps={steps}", every, 'record.evaluations={"kind":"never"}']


def store(root: Path, overrides: list[str], study: str = "regression") -> PlanFolder:
    plan = with_overrides(Plan(study=study, name="test"), overrides)
    return store_plan(root, plan, planned(plan, root)[0])[0]


def states(plan: PlanFolder) -> list[str]:
    return [standing.state for standing in standings(plan.root, plan.runs)]


def attempts(plan: PlanFolder, state: str) -> list[str]:
    return sorted(line["id"] for line in read_lines(plan.path / "log.jsonl") if line["state"] == state)


def weights(step: int) -> str:
    return f"checkpoints/{step:09d}/weights.safetensors"


def assert_same_results(plan: PlanFolder, elsewhere: Path) -> None:
    """Every run has the bytes that one process makes, undisturbed, in another folder."""
    for run in plan.runs:
        alone = start("regression", run.overrides, elsewhere, lambda text: None).path
        for name in ("metrics.jsonl", "references.jsonl", weights(run.last)):
            assert (plan.root / run.id / name).read_bytes() == (alone / name).read_bytes(), name


def when(condition: Callable[[], bool], action: Callable[[], None]) -> threading.Thread:
    """Do something as soon as something else is so, while the test waits for the sweep."""

    def watch() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if condition():
                return action()
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def processes_of(text: str) -> list[int]:
    """Every live process whose command line or environment names `text`."""
    found = []
    for place in glob.glob("/proc/[0-9]*"):
        try:
            known = Path(place, "cmdline").read_bytes() + Path(place, "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in known and int(place[6:]) != os.getpid():
            found.append(int(place[6:]))
    return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


AUTHORISED = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2, "RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def head(port: int, client_port: int, hiding: Path | None = None) -> Iterator[str]:
    """A head node and its address; with `hiding`, one that finds this folder empty."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as session:
        words = ["--head", f"--port={port}", f"--ray-client-server-port={client_port}", f"--temp-dir={session}"]
        with node([*words, "--num-cpus=2", "--num-gpus=2", "--include-dashboard=false"], session, hiding):
            yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def node(words: list[str], folder: str, hiding: Path | None = None) -> Iterator[subprocess.Popen]:
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *words]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000"]
    if hiding is not None:
        command = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{hiding}" && exec "$@"', "sh", *command]
    told = Path(folder) / "start.log"
    with told.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        end = time.monotonic() + 60
        while b"Ray runtime started" not in told.read_bytes():
            assert process.poll() is None and time.monotonic() < end, told.read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of one node; a token keeps strangers out."""
    port, client_port = free_ports(2)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (AUTHORISED | {"RAY_CLIENT_PORT": str(client_port)}).items():
            patch.setenv(key, value)
        with head(port, client_port) as address:
            yield address


def test_a_ray_of_its_own_equals_single_runs_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    own = tempfile.mkdtemp(prefix="t", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", own)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    plan = store(tmp_path / "runs", [*tiny, "task.count=1,inf", "seed=range(2)"])
    summary = carry_out(plan, RayConfig(workers=2, stack="none"), lambda text: None)
    assert [result.state for result in summary.results.values()] == ["finished"] * 4
    assert_same_results(plan, tmp_path / "alone")
    segments = [segment for run in plan.runs for segment in RunFolder(plan.root / run.id).segments]
    assert [segment["engine"] for segment in segments] == ["ray"] * len(plan.runs)
    assert len(list((plan.path / "ray").glob("*-*.log"))) == 2, "each of two workers did several runs"
    assert not processes_of(f"{own}/inlearn-ray-")
    assert not list(Path(own).glob("inlearn-ray-*"))
    shutil.rmtree(own)
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_killed_worker_loses_nothing(tiny, tmp_path, cluster):
    plan = store(tmp_path / "runs", [*longer(tiny), "seed=range(2)"])
    first = tmp_path / "runs" / plan.runs[0].id
    killer = when((first / weights(50)).exists, lambda: os.kill(lease_holder(first)["pid"], signal.SIGKILL))
    said: list[str] = []
    carry_out(plan, RayConfig(address=cluster), said.append)
    killer.join()
    assert states(plan) == ["finished"] * 2
    assert attempts(plan, "lost") == [first.name]
    assert attempts(plan, "finished") == sorted(run.id for run in plan.runs), "each was finished once"
    assert any("is gone: its worker process has died" in text for text in said), said
    assert len(RunFolder(first).segments) == 2
    assert_same_results(plan, tmp_path / "alone")


@pytest.mark.slow
def test_a_stack_that_lost_its_worker_comes_back(tiny, tmp_path, cluster):
    plan = store(tmp_path / "runs", [*longer(tiny), "seed=range(3)"])
    paths = [tmp_path / "runs" / run.id for run in plan.runs]
    saved = when(
        lambda: all((path / weights(50)).exists() for path in paths),
        lambda: os.kill(lease_holder(paths[0])["pid"], signal.SIGKILL),
    )
    said: list[str] = []
    carry_out(plan, RayConfig(address=cluster, stack=3), said.append)
    saved.join()
    assert said[0] == "3 runs in 1 stack of 3: engine.stack=3" and states(plan) == ["finished"] * 3
    assert attempts(plan, "lost") == attempts(plan, "finished") == sorted(path.name for path in paths)
    for path, run in zip(paths, plan.runs, strict=True):
        assert [segment["form"] for segment in RunFolder(path).segments] == ["stacked"] * 2
        member = start(
            "regression", [*run.overrides, "execution.engine=stacked"], tmp_path / "alone", lambda text: None
        )
        assert (path / weights(600)).read_bytes() == (member.path / weights(600)).read_bytes()


@pytest.mark.slow
def test_asked_to_stop_a_run_saves_and_the_rest_is_not_begun(tiny, tmp_path, cluster):
    plan = store(tmp_path / "runs", [*longer(tiny, 3000), "seed=range(2)"])
    path = tmp_path / "runs" / plan.runs[0].id
    asker = when((path / weights(50)).exists, plan.ask_to_leave)
    summary = carry_out(plan, RayConfig(address=cluster, workers=1, stack="none"), lambda text: None)
    asker.join()
    assert summary.stopped == "cancelled" and states(plan) == ["interrupted", "planned"]
    assert {id: result.state for id, result in summary.results.items()} == {path.name: "interrupted"}
    assert 3000 > RunFolder(path).segments[-1]["to_step"] == RunFolder(path).status.step > 0
    carry_out(plan, RayConfig(address=cluster, gpus=0.5), lambda text: None)
    assert_same_results(plan, tmp_path / "alone")


@pytest.mark.slow
def test_a_worker_that_ray_tells_to_leave_saves_and_the_run_goes_on(tiny, tmp_path, cluster):
    plan = store(tmp_path / "runs", [*longer(tiny), "seed=1"])
    path = tmp_path / "runs" / plan.runs[0].id
    teller = when((path / weights(50)).exists, lambda: os.kill(lease_holder(path)["pid"], signal.SIGTERM))
    carry_out(plan, RayConfig(address=cluster), lambda text: None)
    teller.join()
    assert attempts(plan, "lost") == attempts(plan, "finished") == [path.name]
    one, two = RunFolder(path).segments
    assert 50 <= one["to_step"] == two["from_step"] < 600


TELL = """
import os, pathlib, time
_here, _end = pathlib.Path(__file__).parent, time.monotonic() + 30
(_here / f"{os.getpid()}.seen").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
while len(list(_here.glob("*.seen"))) < 2 and time.monotonic() < _end:
    time.sleep(0.05)
"""
"""Put at the end of a study: says which cards its process sees, and waits until another process said so."""


@pytest.mark.slow
def test_each_worker_sees_its_part_of_a_card(tmp_path, cluster, lookup):
    study = tmp_path / "own.py"
    study.write_text(Path(lookup).read_text() + TELL)
    jobs = [Job((Wanted(f"{n:012x}", ()),), str(study), str(tmp_path / "runs")) for n in range(2)]
    for gpus, expected in ((None, ["0", "1"]), (0, ["", ""])):
        for left in tmp_path.glob("*.seen"):
            left.unlink()
        results = []
        config = RayConfig(address=cluster, gpus=gpus, cpus=0.5)
        config.build(tmp_path / "plan").carry_out(jobs, results.append, lambda: False)
        assert [result.state for result in results] == ["refused"] * 2, "these ids stand for nothing"
        assert sorted(path.read_text() for path in tmp_path.glob("*.seen")) == expected


@pytest.mark.slow
def test_when_the_connection_breaks_what_was_begun_is_lost_and_told(tiny, tmp_path, cluster):
    plan = store(tmp_path / "runs", [*longer(tiny), "seed=range(3)"])
    begun = [tmp_path / "runs" / run.id for run in plan.runs[:2]]

    def kill_the_child() -> None:
        (child,) = [p.pid for p in engine.multiprocessing.active_children() if p.name == "inlearn-ray"]
        os.kill(child, signal.SIGKILL)

    killer = when(lambda: all((path / weights(50)).exists() for path in begun), kill_the_child)
    with pytest.raises(EnvironmentFault, match=r"connection to Ray at 127\.0\.0\.1:\d+ broke off; .*driver\.log"):
        carry_out(plan, RayConfig(address=cluster), lambda text: None)
    killer.join()
    assert attempts(plan, "lost") == sorted(path.name for path in begun)
    end = time.monotonic() + 60
    while any(lease_holder(path) for path in begun):  # Ray ends the actors of a driver that is gone
        assert time.monotonic() < end
        time.sleep(0.1)
    assert states(plan) == ["interrupted", "interrupted", "planned"]


def refused(config: RayConfig, folder: Path) -> str:
    job = Job((Wanted("0" * 12, ()),), "regression", str(folder))
    with pytest.raises((UserError, EnvironmentFault)) as caught:
        config.build(folder / "plan").carry_out([job], lambda result: pytest.fail(str(result)), lambda: False)
    return f"{caught.typename}: {caught.value}"


def test_what_cannot_be_is_refused(tmp_path, cluster, monkeypatch):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        closed = f"EnvironmentFault: cannot reach Ray at 127.0.0.1:{port}: Connection refused"
        assert refused(RayConfig(address=f"127.0.0.1:{port}"), tmp_path) == closed
        deaf.listen()
        monkeypatch.setattr(engine, "CONNECT_SECONDS", 3.0)
        silent = f"EnvironmentFault: Ray at 127.0.0.1:{port} did not answer within 3 s"
        assert refused(RayConfig(address=f"127.0.0.1:{port}"), tmp_path) == silent
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'inlearn\[ray\]'"):
        RayConfig().build(tmp_path)


@pytest.mark.slow
def test_workers_that_fit_nowhere_are_refused(tmp_path, cluster, monkeypatch):
    asked = RayConfig(address=cluster, cpus=3)
    assert "UserError: engine.cpus = 3 and engine.gpus = 1 for a worker: more than a node of Ray" in refused(
        asked, tmp_path
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "engine.gpus = 0.5 for a worker: more than this machine has" in refused(RayConfig(gpus=0.5), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a node other mounts")
def test_a_node_that_does_not_see_the_runs_is_refused(tmp_path, monkeypatch):
    port, client_port = free_ports(2)
    for key, value in AUTHORISED.items():
        monkeypatch.setenv(key, value)
    with head(port, client_port, hiding=tmp_path) as address:
        told = refused(RayConfig(address=address), tmp_path)
    assert f"does not see {tmp_path}: --runs must be a folder that every node shares, or an object-storage" in told


@pytest.mark.slow
def test_through_rays_client(tiny, tmp_path, cluster):
    plan = store(tmp_path / "runs", [*tiny, "seed=range(2)"])
    carry_out(plan, RayConfig(address=f"ray://127.0.0.1:{os.environ['RAY_CLIENT_PORT']}"), lambda text: None)
    assert states(plan) == ["finished"] * 2


@pytest.mark.slow
def test_a_node_that_dies_loses_nothing(tiny, tmp_path, cluster):
    plan = store(tmp_path / "runs", [*longer(tiny, 3000), "seed=range(3)"])
    begun = [tmp_path / "runs" / run.id for run in plan.runs]
    (tmp_path / "node").mkdir()
    with node([f"--address={cluster}", "--num-cpus=1", "--num-gpus=1"], str(tmp_path / "node")) as process:

        def kill_the_node() -> None:
            (raylet,) = children(process.pid, "raylet")
            os.kill(raylet, signal.SIGKILL)

        killer = when(lambda: all((path / weights(50)).exists() for path in begun), kill_the_node)
        carry_out(plan, RayConfig(address=cluster), lambda text: None)
        killer.join()
    assert states(plan) == ["finished"] * 3
    assert len(attempts(plan, "lost")) == 1 and attempts(plan, "finished") == sorted(path.name for path in begun)


def children(pid: int, name: str) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid), "-x", name], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]
