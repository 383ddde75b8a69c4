"""The store itself: retries, verification, parts, listing, credentials, and one sentence for every failure."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from inlearn.core.errors import UserError
from inlearn.runs.folder import list_runs
from inlearn.runs.remote_credentials import s3_options
from inlearn.runs.remote_pull import known_steps
from inlearn.runs.remote_root import open_root
from inlearn.runs.remote_store import Exists, RemoteStore, StorageFault


def first(n: int, what: object, method: str = "PUT"):
    left = [n]

    def fault(verb: str, path: str, before: int) -> object:
        if verb == method and left[0] > 0:
            left[0] -= 1
            return what
        return None

    return fault


@pytest.mark.parametrize("what", [500, 503, "cut", "lost", 429])
def test_a_write_survives_passing_faults(bucket, proxy, what):
    proxy.faults.append(first(2, what))
    store = RemoteStore(bucket)
    store.put("a/b.txt", b"content")
    assert proxy.struck == 2
    assert store.get("a/b.txt")[0] == b"content"


def test_a_write_that_hangs_is_given_up_and_repeated(bucket, proxy):
    proxy.faults.append(first(1, "hang"))
    store = RemoteStore(bucket, patience=4.0)
    store.put("a", b"content")
    assert proxy.struck == 1 and store.get("a")[0] == b"content"


@pytest.mark.parametrize("what", [500, "cut"])
def test_faults_that_stay_end_in_one_sentence(bucket, proxy, what):
    proxy.faults.append(first(10**6, what))
    with pytest.raises(StorageFault) as error:
        RemoteStore(bucket, patience=1.0).put("a", b"content")
    assert str(error.value).startswith(f"{bucket}: cannot write a: ") and "\n" not in str(error.value)
    assert proxy.struck > 1


def test_expired_and_denied_are_told_at_once(bucket, proxy):
    store = RemoteStore(bucket, patience=60.0)
    proxy.faults.append(lambda method, path, before: "expired")
    with pytest.raises(StorageFault, match="the credentials have expired"):
        store.put("a", b"content")
    proxy.faults[:] = [lambda method, path, before: 403]
    with pytest.raises(StorageFault, match="access denied"):
        store.list()
    assert proxy.struck == 2, "neither was repeated"


def test_no_bucket_and_no_server(bucket, monkeypatch):
    with pytest.raises(StorageFault, match="there is no such bucket"):
        RemoteStore("s3://no-such-bucket-here/lab").put("a", b"content")
    with pytest.raises(StorageFault, match="there is no such bucket"):
        RemoteStore("s3://no-such-bucket-here/lab").list()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageFault, match="the connection is refused"):
        RemoteStore(bucket, patience=0.5).list()


def test_large_files_go_in_parts_and_come_back_whole(bucket, proxy, tmp_path):
    content = os.urandom((11 << 20) + 17)
    (tmp_path / "large").write_bytes(content)
    store = RemoteStore(bucket, patience=20.0, part_bytes=5 << 20)
    proxy.faults.append(lambda method, path, before: 500 if "partNumber=2" in path and proxy.struck < 2 else None)
    tag, _, size = store.put_file("large", tmp_path / "large")
    assert size == len(content) and tag.strip('"').endswith("-3") and proxy.struck == 2
    store.fetch("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    store.put_file("prefix", tmp_path / "large", 6 << 20)
    assert store.get("prefix")[0] == content[: 6 << 20]


def test_an_upload_that_is_cut_leaves_nothing_visible(bucket, proxy, tmp_path):
    (tmp_path / "large").write_bytes(os.urandom(11 << 20))
    store = RemoteStore(bucket, patience=1.0, part_bytes=5 << 20)
    proxy.faults.append(lambda method, path, before: "cut" if "partNumber=3" in path else None)
    with pytest.raises(StorageFault):
        store.put_file("large", tmp_path / "large")
    assert store.list() == []


def test_other_bytes_than_were_sent_are_noticed(bucket, proxy, moto_port, monkeypatch):
    """A store whose tags are no hashes is found out by reading back; one that holds other bytes is refused."""
    store = RemoteStore(bucket, patience=0.5)
    monkeypatch.setattr("inlearn.runs.remote_store.hashlib.md5", lambda *a, **k: __import__("hashlib").sha1(b"other"))
    store.put("right", b"content")
    assert not store._tags_are_md5
    gets = [path for method, path in proxy.requests if method == "GET"]
    store.put("again", b"content")
    assert [path for method, path in proxy.requests if method == "GET"] == gets, "read back once only"


def test_a_root_of_more_than_ten_thousand_objects(bucket, proxy):
    """Listed page by page; only the small files are fetched, and only once."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend, name = s3_backends[DEFAULT_ACCOUNT_ID]["aws"], bucket.split("/")[2]
    ids = [f"{n:012x}" for n in range(50)]
    for id in ids:
        for file in ("config.json", "study.json", "status.json"):
            backend.put_object(name, f"lab/{id}/{file}", b'{"state": "finished", "step": 1, "reason": ""}')
        for step in range(70):
            for part in ("weights.safetensors", "optimiser.safetensors", "manifest.json"):
                backend.put_object(name, f"lab/{id}/checkpoints/{step:09d}/{part}", b"{}")
    root = open_root(bucket)
    assert [run.id for run in list_runs(root)] == ids and known_steps(root / ids[-1]) == list(range(70))
    assert len(proxy.requests) == 11 + 3 * 50, "a thousand objects a page"
    proxy.requests.clear()
    open_root(bucket)
    assert len(proxy.requests) == 11


def test_conditional_writes(bucket, proxy):
    store = RemoteStore(bucket)
    tag = store.put_if("lease", b"1", None)
    with pytest.raises(Exists):
        store.put_if("lease", b"2", None)
    store.put_if("lease", b"2", tag)
    with pytest.raises(Exists):
        store.put_if("lease", b"3", tag)


def test_without_obstore_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UserError, match=r"pip install 'inlearn\[s3\]'"):
        RemoteStore("s3://bucket/lab")


def test_a_local_store_speaks_the_same(tmp_path):
    store = RemoteStore(f"file://{tmp_path}/store")
    store.put("a/b", b"content")
    (tmp_path / "file").write_bytes(b"x" * 100)
    store.put_file("c", tmp_path / "file")
    assert store.get("a/b")[0] == b"content" and {s.key for s in store.list()} == {"a/b", "c"}
    store.delete(["a/b", "absent"])
    assert [s.key for s in store.list()] == ["c"]


# ---------------------------------------------------------------- credentials


def write_profiles(home: Path) -> None:
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id=D\naws_secret_access_key=d\n"
        "[lab]\naws_access_key_id=L\naws_secret_access_key=l\naws_session_token=t%1\n"
    )
    (home / ".aws" / "config").write_text(
        "[profile lab]\nregion=eu-west-1\nendpoint_url=http://store:9000\n[profile role]\nrole_arn=arn:x\n"
    )


def test_profiles_are_read_as_aws_reads_them(tmp_path):
    write_profiles(tmp_path)
    default = s3_options({"HOME": str(tmp_path)})
    assert default["credential_provider"]()["access_key_id"] == "D"
    lab = s3_options({"HOME": str(tmp_path), "AWS_PROFILE": "lab"})
    assert lab["credential_provider"]()["token"] == "t%1"
    assert lab["config"] == {"endpoint": "http://store:9000", "region": "eu-west-1"}
    assert lab["client_options"]["allow_http"]
    keys = s3_options({"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "E", "AWS_DEFAULT_REGION": "us-west-2"})
    assert "credential_provider" not in keys and keys["config"]["region"] == "us-west-2"
    with pytest.raises(UserError, match="unknown AWS_PROFILE 'lb'; did you mean 'lab'"):
        s3_options({"HOME": str(tmp_path), "AWS_PROFILE": "lb"})
    (tmp_path / ".aws" / "credentials").write_text("[lab]\naws_access_key_id=N\naws_secret_access_key=n\n")
    assert lab["credential_provider"]()["access_key_id"] == "N", "renewed keys are found"


def test_a_profile_signs_real_requests(bucket, tmp_path, monkeypatch):
    write_profiles(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = RemoteStore(bucket)
    store.put("a", b"content")
    assert store.get("a")[0] == b"content"
