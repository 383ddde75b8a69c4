"""A run whose root lives in object storage: fetched before it is trained, sent in the background while it is.

The folder stays the truth: training writes there and never waits for the network. What could not be sent by the end
is said in one closing sentence, and the next start, or `inlearn push`, sends it.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from inlearn.core.errors import EnvironmentFault
from inlearn.lab.logs import logger_of
from inlearn.runs.remote_lease import RemoteLease
from inlearn.runs.remote_pull import pull_run, sole
from inlearn.runs.remote_push import Push
from inlearn.runs.remote_root import url_of
from inlearn.runs.remote_store import RemoteStore, StorageFault
from inlearn.training.loop import Outcome

Say = Callable[[str], None]
BROKEN_OFF = "the upload was broken off"

# Where the session, which opens a run's remote, meets the mirrors, which are made long after and further down.
_OPEN: dict[Path, Upload] = {}


@contextlib.contextmanager
def kept_remotely(root: Path, id: str, say: Say) -> Iterator[None]:
    """Hold run `id` of `root` against every machine, fetch what others did, and send what is done here.

    Does nothing for an ordinary folder. Raises `Held` while another process has the run, `StorageFault` where the
    store cannot be used now, and, when all is done, where files are left that could not be sent.
    """
    url = url_of(root)
    if url is None:
        yield
        return
    store, folder = RemoteStore(url), root / id
    with RemoteLease(store, id, say) as lease, sole(root, id):
        pull_run(store, root, id, say)
        upload = _OPEN[folder] = Upload(store, folder, lease)
        whole = False
        try:
            yield
            whole = True
        finally:
            del _OPEN[folder]
            problem = upload.finish(say)
            if problem and not whole:
                say(problem)  # beside the error that ended it
        if problem:
            raise StorageFault(problem)
        lease.raise_if_lost()


def uploads_of(folder: Path) -> list[Upload]:
    """The upload of a run that is open in this process: one, or none. It begins with what the run is."""
    found = [_OPEN[folder]] if folder in _OPEN else []
    for upload in found:
        upload.begin()
    return found


def push_run(root: Path, id: str, say: Say) -> None:
    """Send whatever the remote of run `id` does not have yet."""
    with kept_remotely(root, id, say):
        pass


def unsent(root: Path, ids: Iterable[str]) -> list[str]:
    """Those of the runs `ids` that have files here that their remote lacks; asks nobody. Empty for a local root."""
    if (url := url_of(root)) is None:
        return []
    store = RemoteStore(url)
    return [id for id in ids if Push(store, root / id, lambda: None).left()]


class Upload:
    """A `Mirror` that sends a run's folder from a thread of its own, after each checkpoint and at the end."""

    def __init__(self, store: RemoteStore, folder: Path, lease: RemoteLease) -> None:
        self.store, self.folder, self.lease = store, folder, lease
        self.log = logger_of(folder)
        self._push: Push | None = None
        self._wake, self._closing = threading.Event(), False
        self._problem, self._broken_off = "", False
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        self._wake.set()

    def line(self, line: Mapping[str, Any]) -> None:
        pass

    def checkpoint(self, step: int) -> None:
        self.lease.raise_if_lost()
        self._wake.set()

    def end(self, outcome: Outcome) -> None:
        """Nothing yet: run.log and the lease are still open. `finish` sends the rest."""

    def _work(self) -> None:
        closing = False
        while not closing:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing
            self._attempt(everything=closing)

    def _attempt(self, everything: bool) -> None:
        if self.lease.lost or not (self.folder / "config.json").exists():
            return
        failing = self._problem
        self._push = self._push or Push(self.store, self.folder, self._guard)
        try:
            self._push.push(everything)
            self._problem = ""
            if failing:
                self.log.info("%s has all checkpoints again", self.store.url)
        except EnvironmentFault as error:
            self._problem = str(error)
        except Exception as error:  # a thread that dies without a word would lose what it should send
            self._problem = f"{type(error).__name__}: {error}"
        if self._problem and not everything and not self.lease.lost:
            self.log.warning(
                "%s; training goes on, and the upload is tried again at the next checkpoint", self._problem
            )

    def _guard(self) -> None:
        """Once broken off, or when another machine has the run, nothing more is written."""
        self.lease.check()
        if self._broken_off:
            raise StorageFault(BROKEN_OFF)

    def finish(self, say: Say) -> str:
        """Wait until everything is sent, telling about it; what is to be said if not all was, else ""."""
        self._closing = True
        self._wake.set()
        speak = time.monotonic() + 1.0
        try:
            while self._thread.is_alive():
                self._thread.join(0.2)
                if time.monotonic() > speak:
                    say(f"sending {len(self._left())} files to {self._where}; Ctrl-C leaves them for later")
                    speak = time.monotonic() + 10.0
        except KeyboardInterrupt:
            self._broken_off = True
            self._problem = BROKEN_OFF
        if self.lease.lost:
            return ""  # the run is another machine's now
        if not self._problem:
            return ""
        command = f"inlearn push {self.folder.name} --runs {shlex.quote(self.store.url)}"
        return (
            f"run {self.folder.name} is whole in {self.folder}, and {len(self._left())} of its files are not at "
            f"{self._where}: {self._problem}; `{command}` sends them"
        )

    @property
    def _where(self) -> str:
        return f"{self.store.url}/{self.folder.name}"

    def _left(self) -> list[str]:
        return self._push.left() if self._push else []
