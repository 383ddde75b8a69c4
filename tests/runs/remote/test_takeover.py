"""Leases of runs in object storage: what a machine that slept, or was cut off, may still write when it is back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inlearn.core.errors import EnvironmentFault
from inlearn.lab.object_storage import kept_remotely
from inlearn.lab.session import resume, start
from inlearn.runs import remote_lease as lease_module
from inlearn.runs.lease import Held, description
from inlearn.runs.remote_lease import RemoteLease
from inlearn.runs.remote_push import Push
from inlearn.runs.remote_root import open_root
from inlearn.runs.remote_store import RemoteStore, StorageFault

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def quiet(text: str) -> None:
    pass


def machine(monkeypatch, tmp_path: Path, name: str, bucket: str) -> Path:
    """The root of `bucket` as machine `name` has it."""
    monkeypatch.setenv("INLEARN_CACHE", str(tmp_path / name))
    return open_root(bucket)


def looks_dead(lease: RemoteLease) -> None:
    """Write into a lease what a process leaves that is gone: whoever comes next takes it over."""
    content, _ = lease.store.get(lease.key)
    lease.store.put(lease.key, json.dumps(json.loads(content) | {"process_start": f"{BOOT}:1"}).encode())


def sleeps(monkeypatch) -> None:
    """From now on, every heartbeat that was made is an old one."""
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", -1.0)


def test_who_slept_through_a_takeover_writes_nothing(bucket, tiny, tmp_path, monkeypatch):
    a = machine(monkeypatch, tmp_path, "a", bucket)
    run = start("regression", [*tiny, "training.until=30"], a, quiet)
    with RemoteLease(RemoteStore(bucket), run.id, quiet) as lease:
        looks_dead(lease)
        said: list[str] = []
        resume(run.id, ["training.until=none"], machine(monkeypatch, tmp_path, "b", bucket), said.append)
        assert any("took over" in line for line in said)
        before = {s.key: s.tag for s in lease.store.list()}
        lease.check()  # its last heartbeat is fresh: nobody could have taken it over, and nothing is asked
        sleeps(monkeypatch)
        (run.path / ".synced.json").unlink()  # all of it would be sent
        with pytest.raises(EnvironmentFault, match="another machine took the run over"):
            Push(lease.store, run.path, lease.check).push(everything=True)
        assert lease.lost
    assert {s.key: s.tag for s in RemoteStore(bucket).list()} == before


def test_an_upload_that_the_machine_slept_in_is_not_repeated_over_the_successor(
    bucket, proxy, tiny, tmp_path, monkeypatch
):
    """A connection does not outlive the sleep, so the request is made once more: by then the run is another's."""
    run = start("regression", tiny, open_root(bucket), quiet)
    (run.path / ".synced.json").unlink()
    with RemoteLease(RemoteStore(bucket), run.id, quiet) as lease:
        successor = json.dumps(description(1, "another") | {"beats": 1}).encode()

        def sleep(method: str, path: str, before: int) -> object:
            if method != "PUT" or "metrics.jsonl" not in path:
                return None
            proxy.faults.clear()
            lease.store.put(lease.key, successor)
            lease.store.put(f"{run.id}/metrics.jsonl", b"the successor's")
            sleeps(monkeypatch)
            return "cut"

        proxy.faults.append(sleep)
        with pytest.raises(EnvironmentFault, match="another machine took the run over"):
            Push(lease.store, run.path, lease.check).push(everything=True)
        assert lease.store.get(f"{run.id}/metrics.jsonl")[0] == b"the successor's"
    assert lease.store.get(lease.key)[0] == successor, "the successor's lease stays"


def test_who_slept_and_was_not_missed_goes_on(bucket, proxy, monkeypatch):
    with RemoteLease(RemoteStore(bucket), "0" * 12, quiet) as lease:
        sleeps(monkeypatch)
        lost_answers = [2]

        def fault(method: str, path: str, before: int) -> object:
            if method == "PUT" and lost_answers[0]:
                lost_answers[0] -= 1
                return "lost"  # the store has the heartbeat, and we do not know its tag
            return None

        proxy.faults.append(fault)
        first = lease.store.head(lease.key).tag
        lease.check()
        assert not lease.lost and lease.store.head(lease.key).tag != first and proxy.struck
    assert not lease.store.list()


def test_without_the_store_nobody_knows_and_nothing_is_lost(bucket, proxy, monkeypatch):
    with RemoteLease(RemoteStore(bucket, patience=0.5), "0" * 12, quiet) as lease:
        sleeps(monkeypatch)
        proxy.faults.append(lambda method, path, before: 503)
        with pytest.raises(StorageFault):
            lease.check()
        lease.raise_if_lost()
        proxy.faults.clear()
        lease.check()


@pytest.mark.parametrize("after", ["finished", "at it"])
def test_a_heartbeat_after_a_takeover_ends_it(bucket, after):
    """A successor that is done has removed its lease: then there is no version any more to compare with."""
    with RemoteLease(RemoteStore(bucket), "0" * 12, quiet) as lease:
        looks_dead(lease)
        with RemoteLease(RemoteStore(bucket), "0" * 12, quiet):
            if after == "at it":
                lease.beat()
        lease.beat()
        with pytest.raises(EnvironmentFault, match="another machine took the run over"):
            lease.raise_if_lost()


def test_where_nothing_can_be_written_conditionally_a_takeover_is_still_seen(tmp_path, monkeypatch):
    store, said = RemoteStore(f"file://{tmp_path}/store"), []
    with RemoteLease(store, "0" * 12, said.append) as lease:
        lease.beat()
        lease.check()
        assert len(said) == 1 and "cannot write conditionally" in said[0]
        looks_dead(lease)
        with RemoteLease(store, "0" * 12, quiet):
            sleeps(monkeypatch)
            with pytest.raises(EnvironmentFault, match="another machine took the run over"):
                lease.check()


def test_a_machine_of_the_same_name_is_no_dead_process_of_ours(bucket):
    store = RemoteStore(bucket)
    there = description(1, "theirs") | {"process_start": "another boot:1", "beats": 1}
    store.put(f"{'0' * 12}/lease.json", json.dumps(there).encode())
    with pytest.raises(Held, match="is held by process 1 on"), RemoteLease(store, "0" * 12, quiet):
        pass


def test_a_run_that_was_lost_by_its_end_is_told_so(bucket, tiny, tmp_path, monkeypatch):
    """Found out by the last upload only: what was trained here stays here, and that is no success."""
    root = open_root(bucket)
    run = start("regression", [*tiny, "training.until=30"], root, quiet)
    (run.path / "run.log").write_text("more to send\n")
    with pytest.raises(EnvironmentFault, match="lost its lease of s3://"), kept_remotely(root, run.id, quiet):
        store = RemoteStore(bucket)
        store.put(f"{run.id}/lease.json", json.dumps(description(1, "another")).encode())
        sleeps(monkeypatch)
