"""What lives in Ray's processes: the workers, and the sign that asks them to leave. Imports neither ray nor torch."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import socket
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import inlearn
from inlearn.sweeps.engine import Job, Result
from inlearn.sweeps.worker import carry_out

REPEAT_SECONDS = 1.0
RETRY_SECONDS = 5.0


class StopSign:
    """An actor that every worker waits at. It forgets when Ray restarts it, so it is shown again and again."""

    def __init__(self) -> None:
        self.shown = asyncio.Event()

    async def show(self) -> None:
        self.shown.set()

    async def wait(self) -> None:
        await self.shown.wait()


class Worker:
    """An actor that carries out jobs, one after the other, in its process's main thread, where signals arrive."""

    def __init__(self, sign: Any, folder: str, token: str, has_card: bool) -> None:
        """`folder` is the plan's, as the driver sees it; that it is the same one here, `token` in it says."""
        os.environ["INLEARN_ENGINE"] = "ray"
        if not has_card:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves every card in sight of those that asked for none
        try:
            self.sees = (Path(folder) / "token").read_text() == token
        except OSError:
            self.sees = False
        if self.sees:
            log = Path(folder) / f"{socket.gethostname()}-{os.getpid()}.log"
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            for stream in (1, 2):
                os.dup2(handle, stream)
        self.lock, self.busy, self.asked = threading.Lock(), False, False
        # Which signals came, whoever handled them.
        self.heard, self.tell = socket.socketpair()
        self.heard.setblocking(False)
        self.tell.setblocking(False)
        threading.Thread(target=self._heed, args=(sign,), name="stop-sign", daemon=True).start()

    def about(self) -> dict[str, Any]:
        importlib.import_module("inlearn.lab.session")  # torch: while the worker starts, not in its first run
        host = socket.gethostname()
        return {"host": host, "pid": os.getpid(), "version": inlearn.__version__, "sees": self.sees}

    def carry_out(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        # Before and after the training itself, which listens for SIGTERM, nothing is to be saved and none may break in.
        before = signal.signal(signal.SIGTERM, lambda number, frame: None)
        signal.set_wakeup_fd(self.tell.fileno(), warn_on_full_buffer=False)
        with self.lock:
            self.busy = True
        try:
            results = carry_out(Job.read(job))
        finally:
            with self.lock:
                self.busy = False
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, before)
        if any(result.state == "interrupted" for result in results) and self._told() and not self.asked:
            why = "its Ray worker was told to leave, and saved the run"
            results = [Result(r.id, "lost", why) if r.state == "interrupted" else r for r in results]
        return [asdict(result) for result in results]

    def _told(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return signal.SIGTERM in self.heard.recv(1 << 16)
        return False

    def _heed(self, sign: Any) -> None:
        """Once the sign is shown, tell the run, again and again: one that is still being set up does not listen yet."""
        import ray

        while True:
            try:
                ray.get(sign.wait.remote())
                self.asked = True
                break
            except ray.exceptions.RayError:  # the sign is being restarted somewhere else
                time.sleep(RETRY_SECONDS)
        while True:
            with self.lock:
                if self.busy:
                    signal.raise_signal(signal.SIGTERM)
            time.sleep(REPEAT_SECONDS)
