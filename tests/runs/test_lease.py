from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.runs import lease as lease_module
from inlearn.runs.lease import Lease, lease_holder

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

HOLD = """
import sys
from pathlib import Path
from inlearn.runs.lease import Lease
with Lease(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""

# Eight processes meet one stale lease at the same time; those that get it hold on until all have tried.
CONTEND = """
import os, sys
from pathlib import Path
from inlearn.core.errors import UserError
from inlearn.runs.lease import Lease
start_read, start_write = os.pipe()
result_read, result_write = os.pipe()
hold_read, hold_write = os.pipe()
for _ in range(8):
    if os.fork() == 0:
        os.close(start_write), os.close(hold_write)
        os.read(start_read, 1)
        try:
            with Lease(Path(sys.argv[1])):
                os.write(result_write, b"1")
                os.read(hold_read, 1)
        except UserError:
            os.write(result_write, b"0")
        os._exit(0)
os.close(start_write)
print(sum(os.read(result_read, 1) == b"1" for _ in range(8)))
os.close(hold_write)
for _ in range(8):
    os.wait()
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], text=True, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "held\n"
    return process


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "lease.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def left_behind(folder: Path, **changes: Any) -> None:
    """The lease.json of an owner that never released it."""
    with Lease(folder):
        content = (folder / "lease.json").read_text()
    (folder / "lease.json").write_text(content)
    rewrite(folder, **changes)


def test_a_lease_is_there_while_held_and_gone_after(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        holder = lease_holder(tmp_path)
        assert holder is not None and holder["pid"] == os.getpid() and holder["token"] == lease.token
        lease.check()
    assert lease_holder(tmp_path) is None and not (tmp_path / "lease.json").exists()
    with pytest.raises(EnvironmentFault, match="lost its lease"):
        lease.check()


def test_an_error_inside_releases_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Lease(tmp_path):
        raise KeyError
    assert lease_holder(tmp_path) is None


def test_a_live_process_keeps_others_out_and_a_killed_one_does_not(tmp_path: Path) -> None:
    process = holding(tmp_path)
    said: list[str] = []
    with pytest.raises(UserError, match=f"is held by process {process.pid} on .* since"), Lease(tmp_path, said.append):
        pass
    assert said == []
    process.kill()
    # Dead but not yet waited for: a zombie has a pid and a start time, and holds nothing.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lease_holder(tmp_path) is None
    with Lease(tmp_path, said.append):
        assert len(said) == 1 and f"from process {process.pid} on" in said[0]
    process.communicate()


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        with pytest.raises(UserError, match=f"process {os.getpid()}"), Lease(tmp_path):
            pass
        lease.check()


def test_a_recycled_pid_is_not_the_owner(tmp_path: Path) -> None:
    left_behind(tmp_path)
    assert lease_holder(tmp_path) is not None  # this very process
    rewrite(tmp_path, process_start=f"{BOOT}:1")
    assert lease_holder(tmp_path) is None
    with Lease(tmp_path) as lease:
        lease.check()


# The last is a machine of the same name, or this one before it was started anew: nothing tells the two apart.
@pytest.mark.parametrize(
    "elsewhere", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}, {"process_start": "another boot:1"}]
)
def test_an_owner_elsewhere_is_judged_by_its_heartbeat(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    left_behind(tmp_path, pid=1, **elsewhere)
    with pytest.raises(UserError, match="is held by process 1 on"), Lease(tmp_path):
        pass
    old = time.time() - lease_module.STALE_SECONDS - 60
    os.utime(tmp_path / "lease.json", (old, old))
    assert lease_holder(tmp_path) is None
    with Lease(tmp_path) as lease:
        lease.check()


def test_a_damaged_lease_is_judged_by_its_age(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text("{")
    assert lease_holder(tmp_path) is not None
    with pytest.raises(UserError, match="held by an unknown process"), Lease(tmp_path):
        pass
    os.utime(tmp_path / "lease.json", (0, 0))
    with Lease(tmp_path) as lease:
        lease.check()


def test_whoever_lost_the_lease_notices_and_does_not_remove_the_new_owners(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        rewrite(tmp_path, token="another")
        with pytest.raises(EnvironmentFault, match="lost its lease"):
            lease.check()
    assert json.loads((tmp_path / "lease.json").read_text())["token"] == "another"


def test_of_many_that_meet_a_stale_lease_one_gets_it(tmp_path: Path) -> None:
    left_behind(tmp_path, process_start=f"{BOOT}:1")
    done = subprocess.run([sys.executable, "-c", CONTEND, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_the_heartbeat_touches_our_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.001)
    path = tmp_path / "lease.json"
    with Lease(tmp_path):
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:  # ends only if the heart beats
            time.sleep(0.001)
        ours = path.rename(tmp_path / "ours")
        path.write_text(json.dumps({"token": "another"}))
        os.utime(path, (0, 0))
        os.utime(ours, (0, 0))
        while ours.stat().st_mtime == 0:
            time.sleep(0.001)
        assert path.stat().st_mtime == 0


def test_what_a_killed_owner_left_half_written_is_removed(tmp_path: Path) -> None:
    for left in (tmp_path / ".a.1.aside", tmp_path / "checkpoints" / ".000000001.2.aside"):
        left.mkdir(parents=True)
        (left / "file").write_text("half")
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / ".x.json.3.aside").write_text("half")
    with Lease(tmp_path):
        assert not list(tmp_path.rglob("*.aside"))


def test_a_forked_child_does_not_release_its_parents_lease(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from inlearn.runs.lease import Lease
with Lease(Path(sys.argv[1])) as lease:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        lease.check()
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert lease_holder(tmp_path) is None
