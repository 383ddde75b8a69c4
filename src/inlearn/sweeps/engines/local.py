"""Runs on this machine: long-lived worker processes, one a core or one a GPU, so that torch is imported once.

Workers talk JSON over a pipe. They come from a fork server that has imported torch and computed nothing, so a worker
that died is replaced in milliseconds. A worker whose parent was killed ends its run and then itself.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from inlearn.sweeps.engine import Job, Report, Result
from inlearn.sweeps.engines import machine
from inlearn.sweeps.engines.config import LocalConfig

POLL_SECONDS = 0.5


class LocalEngine:
    """`Engine` over processes of this machine; what workers print goes to `<plan folder>/workers/`."""

    def __init__(self, config: LocalConfig, plan_folder: Path) -> None:
        self.config, self.logs = config, plan_folder / "workers"
        method = "spawn" if sys.platform == "darwin" else "forkserver"
        self.context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self.context.set_forkserver_preload(["inlearn.lab.session", "inlearn.sweeps.worker"])

    def carry_out(self, jobs: Sequence[Job], report: Report, stop: Callable[[], bool]) -> None:
        devices = machine.cards()
        count = min(len(jobs), self.config.workers or len(devices) or machine.cores())
        self.logs.mkdir(parents=True, exist_ok=True)
        # A worker keeps its device, so several runs share a card only where more workers than cards are asked for.
        places = [devices[n % len(devices)] if devices else None for n in range(count)]
        waiting, stopping = deque(jobs), False
        workers: list[_Worker] = []
        try:
            _start_fork_server(self.context)
            workers = [_Worker(self.context, n, place, self.logs) for n, place in enumerate(places)]
            while True:
                if not stopping and stop():
                    stopping = True
                    for worker in workers:
                        worker.ask_to_leave()
                for worker in workers:
                    if worker.job is None and waiting and not stopping:
                        worker.begin(waiting.popleft())
                busy = [worker for worker in workers if worker.job is not None]
                if not busy:
                    return
                ready = wait([end for worker in busy for end in worker.ends()], POLL_SECONDS)
                for worker in busy:
                    if any(end in ready for end in worker.ends()):
                        for result in worker.results(stopping):
                            report(result)
        finally:
            for worker in workers:
                worker.end()


def _start_fork_server(context: Any) -> None:
    """Start it deaf to Ctrl-C, which would otherwise break its long import with a traceback."""
    if context.get_start_method() != "forkserver":
        return
    from multiprocessing import forkserver

    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread
        forkserver.ensure_running()
        return
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


class _Worker:
    """One process and the job that it has, if any."""

    def __init__(self, context: Any, number: int, device: str | None, logs: Path) -> None:
        self._make = lambda: self._start(context, number, device, logs)
        self.job: Job | None = None
        self._make()

    def _start(self, context: Any, number: int, device: str | None, logs: Path) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve,
            args=(theirs, device, str(logs / f"{number}.log"), dict(os.environ)),
            name=f"inlearn-worker-{number}",
        )
        self.process.start()
        theirs.close()

    def ends(self) -> tuple[Connection, int]:
        """What becomes ready when the job is done or the process is gone."""
        return self.pipe, self.process.sentinel

    def begin(self, job: Job) -> None:
        self.job = job
        try:
            self.pipe.send_bytes(json.dumps(asdict(job)).encode())
        except OSError:  # it died while it was idle: the job is not to blame
            self.process.join()
            self._make()
            self.pipe.send_bytes(json.dumps(asdict(job)).encode())

    def results(self, stopping: bool) -> list[Result]:
        """Those of the job that has ended, with this process or without it; the next one finds a live worker."""
        job, self.job = self.job, None
        try:
            return [Result(**result) for result in json.loads(self.pipe.recv_bytes())]
        except (EOFError, OSError):
            self.process.join()
        code = self.process.exitcode
        if stopping:  # it had not come so far that a signal can be noted
            return [Result(id, "interrupted", "stopped before its first step") for id in job.ids]
        self.pipe.close()
        self._make()
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit status {code}"
        return [Result(id, "lost", f"its worker process ended with {how}") for id in job.ids]

    def ask_to_leave(self) -> None:
        if self.job is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGTERM)

    def end(self) -> None:
        """Idle workers leave when their pipe closes; one that is still at work was broken off, and is killed."""
        self.pipe.close()
        if self.job is not None:
            self.process.kill()
        self.process.join()


def _serve(pipe: Connection, device: str | None, log: str, environment: dict[str, str]) -> None:
    """The whole life of a worker process, in the caller's environment: the fork server has that of its first use."""
    os.environ.clear()
    os.environ.update(environment, INLEARN_ENGINE="local")
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(handle, stream)
    # Ctrl-C reaches the whole terminal's group. A worker without a job leaves it to the parent to say what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from inlearn.lab.interrupts import interrupts
    from inlearn.sweeps.worker import carry_out

    while True:
        try:
            job = _on(device, Job.read(json.loads(pipe.recv_bytes())))
        except (EOFError, OSError):
            return
        with interrupts():  # a request to stop counts from the first moment, not only once training has begun
            results = carry_out(job)
        try:
            pipe.send_bytes(json.dumps([asdict(result) for result in results]).encode())
        except OSError:
            return


def _on(device: str | None, job: Job) -> Job:
    """The job with its runs on the worker's card, but for those that name a device themselves."""
    if device is None:
        return job
    own = {"device", "execution.device"}
    runs = (
        run
        if own & {text.partition("=")[0] for text in run.overrides}
        else replace(run, overrides=(*run.overrides, f"execution.device={device}"))
        for run in job.runs
    )
    return replace(job, runs=tuple(runs))
