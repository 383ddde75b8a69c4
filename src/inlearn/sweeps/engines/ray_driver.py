"""The child process of ray.py: connects to Ray and keeps the pool of actors, one job each, as large as fits.

A job travels to an actor when the actor is free, so Ray never holds more of them than there are workers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import inlearn
from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.sweeps.engines.ray_worker import StopSign, Worker

POLL_SECONDS = 0.5
NODES_SECONDS = 5.0  # how often the cluster is asked which nodes it has
REACH_SECONDS = 10.0
START_FAILURES = 3  # workers that die before their first job, one after the other, before the sweep gives up


def main(pipe: Connection, asked: str, log: str) -> None:
    """The whole life of the child. Its last message is `end`, `mistake` or `fault`."""
    os.setsid()  # Ctrl-C reaches the whole terminal's group; the parent says what it means
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(handle, stream)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone, or wants nothing more
        pipe.send_bytes(json.dumps(_carry_out(pipe, json.loads(asked))).encode())
    with contextlib.suppress(EOFError, OSError):
        pipe.recv_bytes()


def _carry_out(pipe: Connection, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        with _connected(asked):
            _Pool(pipe, asked).carry_out()
        return {"end": True}
    except UserError as error:
        return {"mistake": str(error)}
    except EnvironmentFault as error:
        return {"fault": str(error)}
    except (EOFError, OSError):
        raise
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return {"fault": f"Ray at {asked['address'] or 'this machine'}: {_first_line(error)}"}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@contextlib.contextmanager
def _connected(asked: dict[str, Any]) -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address, quiet = asked["address"], {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # A token of its own, so that nobody else on the machine can make this Ray carry out code.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.pop("RAY_ADDRESS", None)
    elif address != "auto":
        _reach(address)
    import ray

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address is None:
            own = {"address": "local", "_temp_dir": asked["session"], "include_dashboard": False}
            cpus = None if asked["workers"] is None else math.ceil(asked["workers"] * asked["cpus"])
            # Jobs and results are a few hundred bytes: the smallest store that Ray takes.
            ray.init(**own, num_cpus=cpus, object_store_memory=80_000_000, **quiet)
        else:
            ray.init(address, **quiet)
    except (Exception, SystemExit) as error:
        traceback.print_exc(file=sys.stderr)
        where = address or "this machine"
        raise EnvironmentFault(f"cannot connect to Ray at {where}: {_first_line(error)}") from None
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()
        if address is None:
            shutil.rmtree(asked["session"], ignore_errors=True)


def _reach(address: str) -> None:
    """Ray itself tries for 80 s to reach a port that nobody listens on."""
    host, port = address.removeprefix("ray://").split(":")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise EnvironmentFault(f"cannot reach Ray at {address}: {why}") from None


class _Member:
    """One actor: starting, free, or with a job."""

    def __init__(self, actor: Any) -> None:
        self.actor, self.job = actor, None
        self.where = "a Ray worker"
        self.ref = actor.about.remote()


class _Pool:
    def __init__(self, pipe: Connection, asked: dict[str, Any]) -> None:
        import ray

        self.ray, self.pipe, self.asked = ray, pipe, asked
        self.members: list[_Member] = []
        self.left, self.stopping, self.failures = asked["jobs"], False, 0
        self.home = ray.get_runtime_context().get_node_id()
        self.looked = -math.inf
        self.gpus = asked["gpus"]
        if self.gpus is None:
            self.gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
        self._check_room()
        self.sign = ray.remote(StopSign).options(num_cpus=0, max_concurrency=100_000, max_restarts=-1).remote()
        options = {"num_cpus": asked["cpus"], "num_gpus": self.gpus, "max_restarts": 0, "max_task_retries": 0}
        self.worker = ray.remote(Worker).options(**options)

    # ------------------------------------------------------------ how many

    def _needs(self) -> str:
        return f"engine.cpus = {self.asked['cpus']:g} and engine.gpus = {self.gpus:g}"

    def _room(self) -> int:
        """How many workers fit on the nodes that there are, whoever else uses them."""
        if time.monotonic() - self.looked > NODES_SECONDS:
            self.looked = time.monotonic()
            alive = {node["NodeID"]: node["Resources"] for node in self.ray.nodes() if node["Alive"]}
            if self.home not in alive:  # what it owned is lost, and what is asked of Ray from here waits for ever
                raise EnvironmentFault("the Ray node through which this sweep speaks to the cluster died")
            shares = {"CPU": self.asked["cpus"], "GPU": self.gpus}
            self.fits = sum(
                # 1e-9: three workers of a third of a card fit on it
                min(int(node.get(kind, 0) / share + 1e-9) for kind, share in shares.items() if share)
                for node in alive.values()
            )
        return self.fits

    def _check_room(self) -> None:
        if self._room() == 0:
            whose = "this machine" if self.asked["address"] is None else f"a node of Ray at {self.asked['address']}"
            raise UserError(f"{self._needs()} for a worker: more than {whose} has")
        if self.asked["address"] is None and self.asked["workers"] and self._room() < self.asked["workers"]:
            workers, fit = self.asked["workers"], self._room()
            raise UserError(f"engine.workers = {workers}: {fit} fit on this machine with {self._needs()} each")

    def _grow(self) -> None:
        """As many workers as can be of use. Ray places them, and lets those wait that others leave no room for."""
        if self.stopping:
            return
        busy = sum(member.job is not None for member in self.members)
        wanted = min(self._room(), self.asked["workers"] or math.inf, busy + self.left)
        while len(self.members) < wanted:
            actor = self.worker.remote(self.sign, self.asked["folder"], self.asked["token"], self.gpus > 0)
            self.members.append(_Member(actor))

    # ------------------------------------------------------------ the work

    def carry_out(self) -> None:
        while True:
            self._ask()
            if self.stopping:
                self.sign.show.remote()
                for member in [m for m in self.members if m.job is None]:
                    self._dismiss(member)
            self._grow()
            if not self.members and (self.stopping or not self.left):
                return
            if self._room() == 0 and not any(member.job for member in self.members):
                raise EnvironmentFault(f"the nodes of Ray on which a worker fits are gone ({self._needs()})")
            refs = {member.ref: member for member in self.members}
            ready, _ = self.ray.wait(list(refs), num_returns=1, timeout=POLL_SECONDS)
            for ref in ready:
                self._take(refs[ref])

    def _ask(self, results: Sequence[dict[str, Any]] = (), free: bool = False) -> dict[str, Any] | None:
        """Tell the parent about results and a free worker; the next job for it, if there is one."""
        self.pipe.send_bytes(json.dumps({"results": results, "free": free}).encode())
        reply = json.loads(self.pipe.recv_bytes())
        self.left, self.stopping = reply["left"], reply["stop"]
        return reply["job"]

    def _take(self, member: _Member) -> None:
        """A worker has started, has done its job, or is lost."""
        try:
            answer = self.ray.get(member.ref)
        except self.ray.exceptions.RayError as error:
            self._lose(member, error)
            return
        results = []
        if member.job is None:
            self._check(answer)
            member.where = f"the Ray worker {answer['pid']} on {answer['host']}"
            self.failures = 0
        else:
            results, member.job = answer, None
        leaves = any(result["state"] == "lost" for result in results)  # its node is going down
        if (job := self._ask(results, free=not leaves)) is None:
            self._dismiss(member)
        else:
            member.job, member.ref = job, member.actor.carry_out.remote(job)

    def _check(self, about: dict[str, Any]) -> None:
        """Refuse a node on which runs would be made elsewhere than here, or by other code."""
        if about["version"] != inlearn.__version__:
            mine, theirs = inlearn.__version__, about["version"]
            raise UserError(f"Ray node {about['host']} has inlearn {theirs}, this machine {mine}: install the same")
        if "://" not in self.asked["root"] and not about["sees"]:
            raise UserError(
                f"Ray node {about['host']} does not see {self.asked['root']}: "
                "--runs must be a folder that every node shares, or an object-storage URL such as s3://bucket/prefix"
            )

    def _lose(self, member: _Member, error: Exception) -> None:
        """Report what the worker was doing. An actor that is only out of reach is killed: it must not train on."""
        self._dismiss(member)
        traceback.print_exception(error, file=sys.stderr)
        reason = " ".join(str(error).split("The actor is dead because ")[-1].split())
        reason = reason.partition(" Some common causes")[0][:300]
        if member.job is not None:
            why = f"{member.where} is gone: {reason}"
            self._ask([{"id": run["id"], "state": "lost", "reason": why} for run in member.job["runs"]])
            return
        self.failures += 1
        if self.failures >= START_FAILURES:
            raise EnvironmentFault(f"workers do not start at Ray: {str(error).strip().splitlines()[-1][:300]}")

    def _dismiss(self, member: _Member) -> None:
        self.members.remove(member)
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(member.actor)
