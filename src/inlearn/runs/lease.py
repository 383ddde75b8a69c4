"""Who may write a run folder: one process at a time, recognisable after a crash, a reboot or a recycled pid."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.core.files import read_json, remove_asides, write_json
from inlearn.runs.locking import exclusive

HEARTBEAT_SECONDS = 15.0
LEAVE_SECONDS = 2.0  # how often a holder looks whether it is asked to leave
STALE_SECONDS = 300.0  # twenty missed heartbeats: a loaded file server may drop some


def _process_start(pid: int) -> str | None:
    """Boot id and start tick of process `pid`; None where it is gone, a zombie, or where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the command's name may hold blanks and parentheses
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def _pid_namespace() -> str:
    """Containers may share a host's name and not its pids, so a pid means something only within its namespace."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _process_lives(holder: dict[str, Any]) -> bool:
    if holder["process_start"] is not None:
        return _process_start(holder["pid"]) == holder["process_start"]
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _read(folder: Path) -> tuple[dict[str, Any] | None, float] | None:
    """The lease's content (None if damaged) and its last heartbeat, seconds since the epoch; None without a lease."""
    path = folder / "lease.json"
    try:
        beat = path.stat().st_mtime
        return read_json(path), beat
    except FileNotFoundError:
        return None
    except EnvironmentFault:  # damaged: nobody knows whose it is, so only its age can tell
        return None, beat


def description(pid: int, token: str) -> dict[str, Any]:
    """What a lease says of its holder, process `pid` of this machine."""
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "namespace": _pid_namespace(),
        "process_start": _process_start(pid),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "token": token,
    }


def lives(holder: dict[str, Any] | None, beat: float, now: float) -> bool:
    """Whether the holder of a lease is there: its process on this machine, its last heartbeat from another."""
    if holder is not None and _place(holder) == _place(description(os.getpid(), "")):
        return _process_lives(holder)
    return now - beat < STALE_SECONDS


def _place(holder: dict[str, Any]) -> tuple[str, str, str]:
    """Where its pid means something. Machines may share a name, and their first pid namespaces always have one id,
    so the boot belongs to it; the price is that leases from before a reboot count as another machine's."""
    return holder["host"], holder["namespace"], (holder["process_start"] or "").partition(":")[0]


def lease_holder(folder: Path) -> dict[str, Any] | None:
    """Who holds `folder` now: `host`, `pid`, `since`, `token`; None if nobody does or the holder is gone."""
    found = _read(folder)
    if found is None or not lives(*found, time.time()):
        return None
    return found[0] or {"host": "unknown", "pid": 0, "since": "unknown", "token": ""}


class Held(UserError):
    """Another live process holds the folder."""


def ask_to_leave(folder: Path) -> None:
    """Ask whoever holds `folder`, on any host that sees it, to save and stop; the next holder is not asked."""
    write_json(folder / "leave.json", {"asked": time.strftime("%Y-%m-%d %H:%M:%S %z")})


class Lease:
    """`with Lease(folder): ...` holds a run folder against every other process.

    A lease whose process is gone (same host), or whose heartbeat is older than five minutes (another host), is
    taken over, and `say` is told so. A live one raises `Held`. What a killed owner left half-written is removed.
    Call `check()` before anything lasting is written: a process that slept through its lease must not go on.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda message: None) -> None:
        self.folder = Path(folder)
        self.token = uuid.uuid4().hex
        self._say = say
        self._path = self.folder / "lease.json"
        self._stop = threading.Event()
        self.asked_to_leave = False

    def __enter__(self) -> Lease:
        self._owner = os.getpid()
        with exclusive(self.folder / ".lease.lock") as lock:
            os.utime(lock.fileno())  # the file server's clock, not ours, dates heartbeats
            self._refuse_or_take_over(os.fstat(lock.fileno()).st_mtime)
            (self.folder / "leave.json").unlink(missing_ok=True)
            write_json(self._path, description(self._owner, self.token))
            self._handle = os.open(self._path, os.O_RDONLY)
        for place in (self.folder, *(entry for entry in self.folder.iterdir() if entry.is_dir())):
            remove_asides(place)
        threading.Thread(target=self._beat, name="lease", daemon=True).start()
        return self

    def _refuse_or_take_over(self, now: float) -> None:
        found = _read(self.folder)
        if found is None:
            return
        holder, beat = found
        owner = "an unknown process" if holder is None else f"process {holder['pid']} on {holder['host']}"
        since = "" if holder is None else f" since {holder['since']}"
        if lives(holder, beat, now):
            raise Held(f"{self.folder} is held by {owner}{since}; stop it first, or wait until it ends")
        self._say(f"took over {self.folder} from {owner}, which held it{since} and is gone")

    def _beat(self) -> None:
        beaten = time.monotonic()
        while not self._stop.wait(LEAVE_SECONDS):
            with contextlib.suppress(OSError):
                self.asked_to_leave = self.asked_to_leave or (self.folder / "leave.json").exists()
                if time.monotonic() - beaten >= HEARTBEAT_SECONDS:
                    # Through the open handle, so that a lease somebody else took over is never kept alive by us.
                    os.utime(self._handle)
                    beaten = time.monotonic()

    def is_ours(self) -> bool:
        """Whether nobody has taken the lease over since."""
        found = _read(self.folder)
        return found is not None and found[0] is not None and found[0]["token"] == self.token

    def check(self) -> None:
        """Raise `EnvironmentFault` if the lease is no longer ours."""
        if not self.is_ours():
            raise EnvironmentFault(
                f"this process lost its lease of {self.folder}: another took over, or it was removed"
            )

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._owner:  # a forked child that leaves the block must not release its parent's lease
            return
        self._stop.set()
        # Where it cannot be removed (disk gone, read-only) it is stale as soon as this process ends.
        with contextlib.suppress(OSError, EnvironmentFault), exclusive(self.folder / ".lease.lock"):
            if self.is_ours():
                self._path.unlink()
        os.close(self._handle)
