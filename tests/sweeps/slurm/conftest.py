"""A real Slurm of one node on loopback: its own munged, slurmctld and slurmd in a temporary folder, on own ports."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "sinfo", "squeue", "scontrol", "scancel")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its credential has expired: two minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptExemptTime=0
ReturnToService=2
KillWait=20
MinJobAge=60
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2048 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=20 State=UP PriorityTier=1 GraceTime=20
PartitionName=endless Nodes={host} MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=20 State=UP PriorityTier=9 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Node:
    """`folder` holds logs and slurm.conf; commands find the node by SLURM_CONF while the fixture lasts."""

    folder: Path

    def run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def queue(self) -> dict[str, str]:
        """Job id to state, of all jobs that have not ended."""
        lines = self.run("squeue", "--noheader", "--array", "--format", "%i %T").splitlines()
        return dict(line.split() for line in lines)


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _stop(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _processes_of(folder: Path) -> list[int]:
    """Whatever still runs with this node's slurm.conf in its environment: steps and batch scripts of jobs."""
    mark, found = f"SLURM_CONF={folder}".encode(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def slurm_node() -> Iterator[Node]:
    # Short: munge's socket must fit into 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "munge").mkdir()
        for path in (folder / "munge", folder):
            path.chmod(0o755)
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        host = socket.gethostname().split(".")[0]
        text = CONFIGURATION.format(folder=folder, host=host, controller_port=_free_port(), node_port=_free_port())
        (folder / "slurm.conf").write_text(text)
        environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

        def start(name: str, *arguments: str) -> None:
            with (folder / f"{name}.out").open("wb") as out:
                daemon = subprocess.Popen([name, *arguments], stdout=out, stderr=out, env=environment)
            stack.callback(_stop, daemon)

        stack.callback(_end_jobs, folder)
        start(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={folder}/munge.key",
            f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid",
            f"--seed-file={folder}/munge/seed",
            f"--log-file={folder}/munge/log",
        )
        wait_for((folder / "munge.socket").exists, 10, "munged's start")
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", host)
        yield Node(folder)


def _end_jobs(folder: Path) -> None:
    for pid in _processes_of(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no real Slurm here: {', '.join(missing)} missing (Debian: slurm-wlm, munge)")
    if os.getuid() != 0:
        pytest.skip("no real Slurm here: munged and slurmd need root")
    before = os.environ.get("SLURM_CONF")
    with slurm_node() as node:
        os.environ["SLURM_CONF"] = str(node.folder / "slurm.conf")
        try:
            wait_for(lambda: "idle" in _states(), 30, f"the node's start ({node.folder}/slurmctld.log)")
            yield node
        finally:
            subprocess.run(["scancel", "--quiet", "--me"], timeout=30)
            if before is None:
                del os.environ["SLURM_CONF"]
            else:
                os.environ["SLURM_CONF"] = before


def _states() -> str:
    return subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, timeout=30).stdout


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> Callable[[Callable[[], object], float, str], None]:
    return wait_for
