"""Runs on s3://: trained, killed, cut off, and taken up on another machine (another cache folder)."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inlearn.cli.main import main as cli_main
from inlearn.core.errors import EnvironmentFault
from inlearn.lab.object_storage import push_run
from inlearn.lab.session import resume, start
from inlearn.runs.checkpoints import CheckpointStore
from inlearn.runs.folder import RunFolder
from inlearn.runs.lease import Held
from inlearn.runs.remote_root import open_root
from inlearn.runs.remote_store import RemoteStore

MANIFEST = re.compile(r"([0-9a-f]{12})/checkpoints/(\d{9})/manifest\.json")


EVERY = {0, 15, 30, 45, 60}  # on the schedule; the best one may be another


def wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.02)


def quiet(text: str) -> None:
    pass


@pytest.fixture
def direct(bucket, moto_port, monkeypatch) -> RemoteStore:
    """The store as seen past the proxy."""
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto_port}")
        return RemoteStore(bucket, patience=20.0)


def machine(monkeypatch, tmp_path: Path, name: str, bucket: str) -> Path:
    """The root of `bucket` as machine `name` has it."""
    monkeypatch.setenv("INLEARN_CACHE", str(tmp_path / name))
    return open_root(bucket)


def visible(store: RemoteStore, tmp_path: Path) -> set[int]:
    """The steps of all checkpoints that count remotely, each of them fetched and loaded."""
    seen = set()
    for key in [stored.key for stored in store.list()]:
        if not (match := MANIFEST.fullmatch(key)):
            continue
        run, step = tmp_path / f"seen-{random.random()}", int(match[2])
        folder = run / "checkpoints" / match[2]
        folder.mkdir(parents=True)
        try:
            for name in json.loads(store.get(key)[0])["files"]:
                store.fetch(key.replace("manifest.json", name), folder / name)
            store.fetch(key, folder / "manifest.json")
        except FileNotFoundError:
            assert key not in {s.key for s in store.list()}, f"{key} is visible and not whole"
            continue  # removed while we looked: the manifest went first
        assert CheckpointStore(run).load(step).step == step
        lengths = json.loads((folder / "manifest.json").read_bytes())["lengths"]
        assert len(store.get(f"{match[1]}/metrics.jsonl")[0]) >= lengths["metrics.jsonl"]
        seen.add(step)
        shutil.rmtree(run)
    return seen


def assert_mirrored(store: RemoteStore, folder: Path) -> None:
    """Every file that means something elsewhere is there, byte for byte."""
    there = {s.key for s in store.list(folder.name)}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.name.startswith("."):
            assert f"{folder.name}/{name}" in there, name
            assert store.get(f"{folder.name}/{name}")[0] == path.read_bytes(), name


@pytest.fixture
def command(bucket, tiny, tmp_path):
    """Begin `inlearn run regression <tiny> …` on machine "here" in a process of its own."""
    begun = []

    def begin(*words: str, cache: str = "here") -> subprocess.Popen:
        code = "import torch; torch.set_num_threads(1); from inlearn.cli.main import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words, "--runs", bucket],
            env=os.environ | {"INLEARN_CACHE": str(tmp_path / cache), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


# ---------------------------------------------------------------- the ordinary day


def test_a_run_is_at_the_remote_whole_and_another_machine_reads_it(bucket, direct, proxy, tiny, tmp_path, monkeypatch):
    import inlearn

    run = inlearn.run("regression", *tiny, "name=first", root=bucket)
    assert run.path.parent == tmp_path / "here" / "s3" / bucket.removeprefix("s3://")
    assert visible(direct, tmp_path) >= EVERY
    assert_mirrored(direct, run.path)
    assert not any("lease" in s.key for s in direct.list())
    monkeypatch.setenv("INLEARN_CACHE", str(tmp_path / "there"))
    table = inlearn.query("select run, max(step) as step, min(loss) as loss from training group by run", bucket)
    assert table["run"].tolist() == [run.id] and table["loss"][0] == run.metrics["loss"].min()
    other = inlearn.open("first", bucket)
    assert other.path != run.path and set(other.steps) == set(run.steps) >= EVERY
    assert not list(other.path.glob("checkpoints/*/manifest.json")), "looking at runs fetches no checkpoint"
    mine, theirs = run.checkpoint(30).model().state_dict(), other.checkpoint(30).model().state_dict()
    assert all(mine[name].equal(theirs[name]) for name in mine)
    assert len(list(other.path.glob("checkpoints/*/manifest.json"))) == 1
    proxy.requests.clear()
    inlearn.open("first", bucket)
    assert [method for method, path in proxy.requests] == ["GET"], "one listing, and nothing is fetched twice"


def test_a_run_goes_on_elsewhere_bit_for_bit(bucket, direct, tiny, tmp_path, monkeypatch):
    extra = ('record.trajectory={"kind":"every","steps":10}', "record.best=train/loss")
    whole = start("regression", [*tiny, *extra], tmp_path / "local", quiet)
    half = start("regression", [*tiny, *extra, "training.until=30"], open_root(bucket), quiet)
    there = machine(monkeypatch, tmp_path, "there", bucket)
    said = []
    done = resume(half.id, ["training.until=none"], there, said.append)
    assert any("fetched checkpoint 30" in line for line in said)
    for name in ("metrics.jsonl", "trajectory/weights.f32", "trajectory/rows.jsonl", "checkpoints/best.json"):
        assert (done.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    for part in ("weights.safetensors", "optimiser.safetensors", "state.json"):
        last = Path("checkpoints/000000060") / part
        assert (done.path / last).read_bytes() == (whole.path / last).read_bytes()
    assert visible(direct, tmp_path) >= EVERY
    back = machine(monkeypatch, tmp_path, "here", bucket)
    said.clear()
    resume(half.id, [], back, said.append)
    assert any("is at step 60 already" in line for line in said)
    assert_mirrored(direct, back / half.id)


def test_what_is_ahead_here_is_neither_overwritten_nor_lost(bucket, direct, proxy, tiny, tmp_path, monkeypatch):
    here = open_root(bucket)
    run = start("regression", [*tiny, "training.until=30"], here, quiet)
    proxy.faults.append(lambda method, path, before: 500 if method == "PUT" and "lease" not in path else None)
    with pytest.raises(EnvironmentFault, match=r"is whole in .* of its files are not at s3://.*`inlearn push"):
        resume(run.id, ["training.until=none"], here, quiet)
    assert run.folder.status.state == "finished" and 60 not in visible(direct, tmp_path)
    proxy.faults.clear()
    before = {path: path.read_bytes() for path in run.path.rglob("*.json*") if not path.name.startswith(".")}
    open_root(bucket)
    assert all(path.read_bytes() == content for path, content in before.items())
    push_run(here, run.id, quiet)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert visible(direct, tmp_path) >= EVERY
    assert_mirrored(direct, run.path)


def test_passing_checkpoints_go_when_a_newer_one_is_whole(bucket, direct, tiny, tmp_path, monkeypatch):
    sparse = [word for word in tiny if not word.startswith("record.checkpoints")]
    sparse += ['record.checkpoints={"kind":"listed","steps":[60]}', "record.best=none"]
    here = open_root(bucket)
    run = start("regression", [*sparse, "training.until=20"], here, quiet)
    assert visible(direct, tmp_path) == {0, 20}
    there = machine(monkeypatch, tmp_path, "there", bucket)
    resume(run.id, ["training.until=40"], there, quiet)
    assert visible(direct, tmp_path) == {0, 40}
    resume(run.id, ["training.until=none"], machine(monkeypatch, tmp_path, "here", bucket), quiet)
    assert visible(direct, tmp_path) == {0, 60}
    assert not any("rolling" in s.key for s in direct.list())


def test_a_damaged_remote_checkpoint_is_left_out_for_the_one_before(bucket, direct, tiny, tmp_path, monkeypatch):
    run = start("regression", [*tiny, "training.until=30"], open_root(bucket), quiet)
    name = f"{run.id}/checkpoints/000000030/optimiser.safetensors"
    direct.put(name, bytes(len(direct.get(name)[0])))
    there, said = machine(monkeypatch, tmp_path, "there", bucket), []
    done = resume(run.id, ["training.until=none"], there, said.append)
    assert any("checkpoint 30 at s3://" in line and "sha256 of optimiser" in line for line in said)
    whole = start("regression", tiny, tmp_path / "local", quiet)
    assert (done.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()


def test_a_name_that_two_machines_give_at_once_is_the_first_ones(bucket, direct, tiny, tmp_path, monkeypatch):
    there = machine(monkeypatch, tmp_path, "there", bucket)
    run = start("regression", [*tiny, "name=mine"], machine(monkeypatch, tmp_path, "here", bucket), quiet)
    with pytest.raises(EnvironmentFault, match=f"name mine was given to run {run.id}"):
        start("regression", [*tiny, "name=mine", "seed=2"], there, quiet)
    assert direct.get(".names/mine")[0].decode().strip() == run.id


# ---------------------------------------------------------------- faults


def test_random_faults_lose_nothing_and_show_no_half(bucket, direct, proxy, tiny, tmp_path, monkeypatch):
    chance, over = random.Random(5), threading.Event()
    kinds = [500, 503, "cut", "lost"]

    def fault(method: str, path: str, before: int) -> object:
        return chance.choice(kinds) if before > 3 and chance.random() < 0.3 else None

    problems = []

    def watch() -> None:
        while not over.is_set():
            try:
                visible(direct, tmp_path)
            except Exception as error:  # told in the test's own thread
                problems.append(error)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    proxy.faults.append(fault)
    try:
        monkeypatch.setenv("INLEARN_STORAGE_PATIENCE", "30")  # more than the faults have
        run = start("regression", tiny, open_root(bucket), quiet)
    finally:
        over.set()
        watcher.join()
    assert not problems and proxy.struck > 10
    assert visible(direct, tmp_path) >= EVERY
    assert_mirrored(direct, run.path)


def test_a_killed_upload_leaves_no_half_and_the_next_start_sends_it(bucket, direct, proxy, command, tiny, tmp_path):
    proxy.faults.append(lambda method, path, before: "hang" if "000000030/optimiser" in path else None)
    process = command("run", "regression", *tiny)
    wait_until(lambda: proxy.struck)
    runs = tmp_path / "here" / "s3" / bucket.removeprefix("s3://")
    (folder,) = (path.parent for path in runs.glob("*/config.json"))
    wait_until((folder / "checkpoints/000000060/manifest.json").exists)  # training waits for no network
    process.send_signal(signal.SIGKILL)
    process.communicate()
    seen = visible(direct, tmp_path)
    assert {0, 15} <= seen and max(seen) < 30
    assert any("000000030/weights" in s.key for s in direct.list()), "the test is about a half-sent checkpoint"
    proxy.release.set()
    proxy.faults.clear()
    again = command("run", "regression", *tiny)
    _, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert "took over" in err
    assert visible(direct, tmp_path) >= EVERY
    assert_mirrored(direct, folder)


def test_waiting_at_the_end_can_be_broken_off(bucket, direct, proxy, command, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("INLEARN_STORAGE_PATIENCE", "100")
    proxy.faults.append(lambda method, path, before: "hang" if "000000060/weights" in path else None)
    process = command("run", "regression", *tiny)
    assert any("Ctrl-C leaves them for later" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1 and "the upload was broken off" in err and "inlearn push" in err
    assert "Traceback" not in err
    assert 60 not in visible(direct, tmp_path)


def test_another_machine_waits_for_the_holder_and_takes_over_after_a_kill(
    bucket, direct, proxy, command, tiny, tmp_path, monkeypatch
):
    proxy.faults.append(lambda method, path, before: "hang" if "000000030/manifest" in path else None)
    process = command("run", "regression", *tiny)
    wait_until(lambda: proxy.struck)
    there, said = machine(monkeypatch, tmp_path, "there", bucket), []
    with pytest.raises(Held, match=r"s3://.* is held by process \d+ on "):
        start("regression", tiny, there, quiet)
    (id,) = (path.parent.name for path in there.glob("*/config.json"))
    assert RunFolder(there / id).status.state == "running", "seen from elsewhere"
    assert CheckpointStore(there / id).steps() == []
    process.kill()
    process.communicate()
    proxy.release.set()
    proxy.faults.clear()
    run = start("regression", tiny, there, said.append)
    assert any(re.search("fetched checkpoint (15|20) ", line) for line in said)
    assert any("took over" in line for line in said)
    whole = start("regression", tiny, tmp_path / "local", quiet)
    assert (run.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
    assert visible(direct, tmp_path) >= EVERY


def test_a_run_taken_over_stops_at_the_next_checkpoint(bucket, proxy, tiny, tmp_path):
    """What a machine that slept for long finds: its lease is another's."""
    from inlearn.lab import object_storage

    here, taken = open_root(bucket), []

    def take(text: str) -> None:
        if taken or not object_storage._OPEN:
            return
        (upload,) = object_storage._OPEN.values()
        upload.store.put(upload.lease.key, b'{"token": "another"}')
        upload.lease.beat()
        taken.append(upload.lease.lost)

    original = object_storage.Upload.line
    object_storage.Upload.line = lambda self, line: take("")
    try:
        with pytest.raises(EnvironmentFault, match="lost its lease of s3://"):
            start("regression", tiny, here, quiet)
    finally:
        object_storage.Upload.line = original
    assert taken == [True]


def main(capsys, monkeypatch, *words: str) -> tuple[int, str, str]:
    """The command line in this process: status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["inlearn", *words])
    status = 0
    try:
        cli_main()
    except SystemExit as end:
        status = end.code or 0
    return status, *capsys.readouterr()


def test_a_bucket_that_cannot_be_used_is_told_before_training(bucket, proxy, tiny, tmp_path, capsys, monkeypatch):
    proxy.faults.append(lambda method, path, before: "expired")
    status, out, err = main(capsys, monkeypatch, "run", "regression", *tiny, "--runs", bucket)
    assert status == 1 and "the credentials have expired" in err
    assert err.count("\n") == 1 and out == ""
    assert not list((tmp_path / "here").rglob("config.json"))
    status, out, err = main(capsys, monkeypatch, "ls", "--runs", "s3://")
    assert status == 2 and "expected s3://bucket/prefix" in err


def test_an_outage_in_the_middle_is_closed_by_one_sentence_and_push(
    bucket, direct, proxy, tiny, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setenv("INLEARN_STORAGE_PATIENCE", "0.5")
    proxy.faults.append(lambda method, path, before: 503 if method == "PUT" and "000000030" in path else None)
    status, _, err = main(capsys, monkeypatch, "run", "regression", *tiny, "--runs", bucket)
    assert status == 1 and "Traceback" not in err and "training goes on" in caplog.text
    closing = err.strip().splitlines()[-1]
    found = re.search(r"`inlearn push (\w+) --runs (s3://\S+)` sends them", closing)
    assert found and found[2] == bucket, closing
    proxy.faults.clear()
    status, out, _ = main(capsys, monkeypatch, "push", found[1], "--runs", bucket)
    assert status == 0 and out.strip() == f"{bucket}/{found[1]}"
    assert visible(direct, tmp_path) >= EVERY
    status, _, err = main(capsys, monkeypatch, "push", found[1], "--runs", str(tmp_path / "here"))
    assert status == 2 and "expected a URL" in err


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("s4://bucket/lab", "unknown storage 's4'"),
        ("s3://", "expected s3://bucket/prefix"),
        ("s3://bucket/../other", "expected s3://bucket/prefix"),
    ],
)
def test_what_is_no_place_is_refused(root, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(words)):
        open_root(root)
    with pytest.raises(ValueError, match=re.escape(words)):
        open_root(Path(root))
    assert not list(tmp_path.iterdir())


def test_two_services_with_one_bucket_name_are_not_mixed(bucket, moto_port, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(EnvironmentFault, match="refused"):
        open_root(bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto_port}")
    root = open_root(bucket)  # a mistake that left no run behind holds nothing against the right one
    (root / "0123456789ab").mkdir()
    (root / "0123456789ab" / "config.json").write_text("{}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="set INLEARN_CACHE to another folder"):
        open_root(bucket)
