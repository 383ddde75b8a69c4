"""Who may train a run that lives in object storage: one process, on whatever machine.

`<id>/lease.json` is created by a conditional write, kept alive by heartbeats that name the version they replace, and
taken over in the same way once it is stale: of two that try, the store lets one succeed. What counts as stale is what
counts in a folder (lease.py). Stores without conditional replacement (file://) are told of in a warning.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from inlearn.core.errors import EnvironmentFault
from inlearn.runs.lease import Held, description, lives
from inlearn.runs.remote_store import PROBE_SECONDS, Exists, RemoteStore, StorageFault

HEARTBEAT_SECONDS = 30.0


class RemoteLease:
    """`with RemoteLease(store, id, say) as lease: ...`; the first request of a process, hence the probe of the store.

    Raises `Held` while another process is at it, and `StorageFault` where the store cannot be written. `lost` turns
    true when another has taken over, which it may after five minutes without a heartbeat of ours.
    """

    def __init__(self, store: RemoteStore, id: str, say: Callable[[str], None]) -> None:
        self.store, self.id, self._say = store, id, say
        self.key, self.token = f"{id}/lease.json", uuid.uuid4().hex
        self.lost = False
        self._beats = 0
        self._told = False
        self._stop = threading.Event()
        self._beating = threading.Lock()

    def __enter__(self) -> RemoteLease:
        self._owner = os.getpid()
        self._beaten = _clocks()
        self._tag = self._acquire()
        self._thread = threading.Thread(target=self._beat, name="remote lease", daemon=True)
        self._thread.start()
        return self

    def _acquire(self) -> str:
        for _ in range(3):  # a lease may go away, or a stale one be taken by another, between look and write
            with contextlib.suppress(Exists):
                return self._write(None)
            try:
                content, tag = self.store.get(self.key)
            except FileNotFoundError:
                continue
            holder = _read(content)
            if holder is not None and holder["token"] == self.token:
                return tag  # our own request, repeated after its answer was lost
            owner = "an unknown process" if holder is None else f"process {holder['pid']} on {holder['host']}"
            where = f"{self.store.url}/{self.id}"
            if self._alive(holder):
                raise Held(f"{where} is held by {owner}; stop it first, or wait until it ends")
            with contextlib.suppress(Exists):
                tag = self._write(tag)
                self._say(f"took over {where} from {owner}, which is gone")
                return tag
        raise Held(f"{self.store.url}/{self.id} was taken by another process just now")

    def _alive(self, holder: dict[str, Any] | None) -> bool:
        """Both times are the store's: its clock dates the heartbeat, and an object written now."""
        try:
            beat = self.store.head(self.key).modified
        except FileNotFoundError:
            return False
        now = f"{self.id}/lease.now"
        self.store.put(now, self.token.encode())
        moment = self.store.head(now).modified
        self.store.delete([now])
        return lives(holder, beat, moment)

    def _write(self, tag: str | None, patience: float | None = PROBE_SECONDS) -> str:
        self._sent = _clocks()
        self._beats += 1  # a heartbeat must change the object's tag, which is a hash of its content
        content = json.dumps(description(self._owner, self.token) | {"beats": self._beats}).encode()
        try:
            new = self.store.put_if(self.key, content, tag, patience)
        except NotImplementedError:
            if not self._told:
                self._told = True
                self._say(f"{self.store.url} cannot write conditionally: see to it that one machine trains a run")
            with contextlib.suppress(FileNotFoundError):
                if self.store.head(self.key).tag == tag:
                    return self._noted(self.store.put(self.key, content, patience))
            raise Exists from None
        return self._noted(new)

    def _noted(self, tag: str) -> str:
        """The store has what was sent last. Its time counts from before the request: the machine may sleep in it."""
        self._beaten = self._sent
        return tag

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self.beat()

    def beat(self) -> None:
        """One heartbeat; an unreachable store is no loss yet."""
        with contextlib.suppress(StorageFault):
            self._renew(PROBE_SECONDS)

    def _renew(self, patience: float | None) -> None:
        """Write a heartbeat over our last one, or find out that there is another's. Raises `StorageFault`."""
        with self._beating:
            while not self.lost:
                try:
                    self._tag = self._write(self._tag, patience)
                    return
                except Exists:
                    holder, tag = self._look()
                if holder.get("token") != self.token:
                    self.lost = True
                    self._stop.set()
                else:  # a request of ours had come through and its answer was lost: this one, or one before
                    self._tag = tag
                    if holder["beats"] == self._beats:
                        self._noted(tag)
                        return

    def _look(self) -> tuple[dict[str, Any], str]:
        """What the lease says, and its tag; nothing where it is gone or damaged."""
        try:
            content, tag = self.store.get(self.key)
        except FileNotFoundError:
            return {}, ""
        return _read(content) or {}, tag

    def check(self) -> None:
        """Call before every write: raise `EnvironmentFault` if another process has taken the run over.

        A machine that slept, or was cut off, has not heard of it. So, without a recent heartbeat, one is made first;
        `StorageFault` where the store does not answer.
        """
        age = max(now - then for now, then in zip(_clocks(), self._beaten, strict=True))
        if age > 2 * HEARTBEAT_SECONDS:
            self._renew(patience=None)
        self.raise_if_lost()

    def raise_if_lost(self) -> None:
        """Raise `EnvironmentFault` if another is known to have taken the run over; waits for no network."""
        if self.lost:
            raise EnvironmentFault(
                f"this process lost its lease of {self.store.url}/{self.id}: another machine took the run over"
            )

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._owner:  # a forked child must not release its parent's lease
            return
        self._stop.set()
        self._thread.join(timeout=5.0)
        if not self.lost:
            with contextlib.suppress(StorageFault):
                if self._look()[0].get("token") == self.token:
                    self.store.delete([self.key], patience=PROBE_SECONDS)


def _read(content: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _clocks() -> tuple[float, float]:
    """Seconds by the clock that nobody sets, and by the one that goes on while the machine sleeps."""
    return time.monotonic(), time.time()
