"""Runs on Ray: a pool of actors, on this machine or on a cluster, each with its CPUs and GPU and torch imported once.

Ray's own client lives in a child process (ray_driver.py) that talks JSON over a pipe: it takes over signal handlers,
writes to the terminal, and leaves by SystemExit or not at all when its cluster cannot be reached. The child can be
killed; this process then knows which runs were begun.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import shutil
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.core.files import machine_faults, write_text
from inlearn.sweeps.engine import Job, Report, Result
from inlearn.sweeps.engines.config import RayConfig

CONNECT_SECONDS = 60.0
POLL_SECONDS = 0.5
LEAVE_SECONDS = 15.0  # ray.shutdown takes 1 to 7


class RayEngine:
    """`Engine` over Ray actors. `<plan folder>/ray/` keeps what Ray says (driver.log) and what workers print."""

    def __init__(self, config: RayConfig, plan_folder: Path) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError("engine=ray needs Ray, which is not installed: pip install 'inlearn[ray]'")
        self.config, self.folder = config, plan_folder / "ray"
        self.address = config.address or os.environ.get("RAY_ADDRESS")

    def carry_out(self, jobs: Sequence[Job], report: Report, stop: Callable[[], bool]) -> None:
        if not jobs:
            return
        with machine_faults(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "token", token := uuid.uuid4().hex)
        session = _session_folder() if self.address is None else None
        asked = self.config.model_dump() | {
            "address": self.address,
            "session": session,
            "folder": str(self.folder.resolve()),
            "token": token,
            "root": _everywhere(jobs[0].root),
            "jobs": len(jobs),
        }
        try:
            _Driver(asked, self.folder / "driver.log").serve(jobs, report, stop)
        finally:
            if session is not None:
                shutil.rmtree(session, ignore_errors=True)


def _session_folder() -> str:
    """Where a Ray of our own keeps its sockets: their paths, 84 bytes longer, have at most 107, and no network disk
    holds them, so not below the plan's folder."""
    usual = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="inlearn-ray-", dir=usual if len(usual) <= 20 else "/tmp")


def _everywhere(root: str) -> str:
    """The root as a process in another current folder finds it."""
    return root if "://" in root else os.path.abspath(root)


class _Driver:
    """The child process that speaks to Ray. It asks, with a job's results or without, and is given the next job."""

    def __init__(self, asked: dict[str, Any], log: Path) -> None:
        from inlearn.sweeps.engines.ray_driver import main

        self.address = asked["address"] or "this machine"
        self.log = log
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=main, args=(theirs, json.dumps(asked), str(log)), name="inlearn-ray")
        self.process.start()
        theirs.close()
        self.began = time.monotonic()
        self.connected = self.stopping = False
        self.begun: set[str] = set()

    def serve(self, jobs: Sequence[Job], report: Report, stop: Callable[[], bool]) -> None:
        waiting = deque(jobs)
        try:
            while True:
                self.stopping = self.stopping or stop()
                if wait([self.pipe, self.process.sentinel], POLL_SECONDS):
                    try:
                        message = json.loads(self.pipe.recv_bytes())
                    except (EOFError, OSError):
                        raise self._ended() from None
                    if not self._answer(message, waiting, report):
                        return
                elif not self.connected and self.stopping:
                    return
                elif not self.connected and time.monotonic() - self.began > CONNECT_SECONDS:
                    raise EnvironmentFault(f"Ray at {self.address} did not answer within {CONNECT_SECONDS:.0f} s")
        except (EnvironmentFault, UserError) as error:
            for id in sorted(self.begun):
                report(Result(id, "lost", str(error)))
            raise
        finally:
            self._end()

    def _answer(self, message: dict[str, Any], waiting: deque[Job], report: Report) -> bool:
        """Whether the child goes on after this message."""
        self.connected = True
        if "mistake" in message:
            raise UserError(message["mistake"])
        if "fault" in message:
            raise EnvironmentFault(message["fault"])
        if "end" in message:
            return False
        for result in message["results"]:
            self.begun.remove(result["id"])
            report(Result(**result))
        reply: dict[str, Any] = {"job": None, "stop": self.stopping}
        if message["free"] and waiting and not self.stopping:
            job = waiting.popleft()
            self.begun |= set(job.ids)
            reply["job"] = asdict(job) | {"root": _everywhere(job.root)}
        try:
            self.pipe.send_bytes(json.dumps(reply | {"left": len(waiting)}).encode())
        except OSError:
            raise self._ended() from None
        return True

    def _ended(self) -> EnvironmentFault:
        self.process.join()
        return EnvironmentFault(f"the connection to Ray at {self.address} broke off; {self.log} says more")

    def _end(self) -> None:
        """A closed pipe tells the child to leave, which takes its actors (and a Ray that it started) with it.

        One that still tries to connect looks at no pipe.
        """
        self.pipe.close()
        self.process.join(LEAVE_SECONDS if self.connected else 0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
